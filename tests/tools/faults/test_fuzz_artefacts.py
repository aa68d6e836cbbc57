"""The reader of an artefact with hostile content accepts it or says in two lines why not, in bounded memory."""

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.faults import mutations
from tools.faults.artefact_readers import READERS
from tools.faults.hostile import damage, find_failure, forge

EXAMPLES = 20


@pytest.mark.parametrize("name", READERS)
def test_a_sound_artefact_is_taken(artefacts, name, tmp_path):
    copy = shutil.copytree(artefacts[name].pristine, tmp_path / "copy")
    artefacts[name].read(copy)
    assert not find_failure(artefacts[name].read, copy)


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.parametrize("name", READERS)
@settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
@given(rng=st.randoms(use_true_random=False))
def test_a_changed_artefact_is_taken_or_rejected_in_two_lines(artefacts, name, rng):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        what = damage(rng, artefacts[name], copy)
        failure = find_failure(artefacts[name].read, copy)
    assert not failure, what


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("action", range(6), ids=["nothing", "folder", "pipe", "endless", "link", "circle"])
def test_whatever_lies_in_the_place_of_a_file_nothing_waits_for_it(artefacts, name, action, tmp_path):
    for index, file in enumerate(artefacts[name].list_files()[:2]):
        copy = tmp_path / str(index)
        shutil.copytree(artefacts[name].pristine, copy)
        mutations.mutate_place(Draw(action), copy / file)
        assert not find_failure(artefacts[name].read, copy), file


class Draw(random.Random):
    """Draws one number."""

    def __init__(self, number: int):
        super().__init__(0)
        self.number = number

    def randint(self, a: int, b: int) -> int:
        return self.number


NAMING = {
    "quantization config": ("quant_config.json", ("weights", "file"), ("arrays", "file"), ("weights", "config")),
    "packed weights": ("quantized/config.json", ("model", "file")),
    "statistics": ("activations/statistics.json", ("arrays", "file")),
    "sensitivity": ("mm_00.json", ("arrays", "file")),
}


@pytest.mark.parametrize("name", NAMING)
@pytest.mark.parametrize("way", ["upwards", "absolute", "link"])
def test_a_file_elsewhere_is_not_read_under_any_name(artefacts, name, way, tmp_path):
    document, *places = NAMING[name]
    for index, place in enumerate(places):
        copy, outside = tmp_path / str(index), tmp_path / "outside.safetensors"
        shutil.copytree(artefacts[name].pristine, copy)
        path = copy / document
        content = mutations.json.loads(path.read_text())
        part = content[place[0]]
        shutil.copy(path.parent / part[place[1]], outside)
        link = path.parent / "link.safetensors"
        link.symlink_to(outside)
        depth = "../" * (1 + len(path.parent.relative_to(copy).parts))
        part[place[1]] = {"upwards": f"{depth}{outside.name}", "absolute": str(outside), "link": link.name}[way]
        mutations.write_document(path, content)
        forge(copy, "", "")
        with pytest.raises(Exception, match=r"is outside|does not match") as caught:
            artefacts[name].read(copy)
        assert type(caught.value).__name__ == "UserError"


def test_a_small_chunk_that_unpacks_to_much_is_rejected_before_it_does(artefacts, tmp_path):
    copy = shutil.copytree(artefacts["calibration"].pristine, tmp_path / "copy")
    chunk = next((copy / "calibration.zarr" / "xs").glob("c.*"))
    content = bytearray(chunk.read_bytes())
    content[4:8] = (2**31 - 1).to_bytes(4, "little")
    body = bytes(content[:-4])
    chunk.write_bytes(body + mutations.google_crc32c.value(body).to_bytes(4, "little"))
    assert not find_failure(artefacts["calibration"].read, copy)
