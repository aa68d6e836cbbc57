"""The paths of a configuration are checked at planning, with one line per fault."""

import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from taqmlx.evaluation.distances import FEWEST
from taqmlx.models.weight_files import TITLES
from taqmlx.planning import configuration, path_checks
from taqmlx.store.pictures import READABLE

NOBODY = 65534


def refuse(**changes):
    """The line that rejects a configuration."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        configuration.load(changes)
    return str(caught.value)


def call_as_nobody(call):
    """What `call` says as ValueError, in a process of a user without rights, as root may do everything."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with suppress(BaseException):
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            try:
                call()
            except ValueError as error:
                os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as file:
        return file.read().decode()


@pytest.fixture
def open_folder():
    """A folder that everyone may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("below", ["", "deep/er"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.symlink_to("/mnt/unmounted"), "is a link to /mnt/unmounted, which cannot be reached; fix"),
        (lambda path: path.symlink_to(path), "which cannot be reached; fix that, or choose another results_dir"),
        (Path.touch, "is not a folder; "),
        (os.mkfifo, "is not a folder; "),
    ],
    ids=["link", "loop", "file", "pipe"],
)
def test_results_are_written_to_a_folder(make, words, below, tmp_path):
    make(tmp_path / "x")
    line = refuse(results_dir=str(tmp_path / "x" / below))
    assert line.startswith(f"results_dir: {tmp_path / 'x'} ")
    assert words in line


def test_the_results_folder_may_be_a_link_or_not_exist_yet(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "x").symlink_to("disk")
    for results in (tmp_path / "x", tmp_path / "x" / "new" / "er", tmp_path / "disk"):
        configuration.load({"results_dir": str(results)})
    assert not list((tmp_path / "disk").iterdir())


@pytest.mark.parametrize("name", ["trajectories.zarr", "quant_config.json"])
def test_a_broken_link_among_the_results_is_named(name, tmp_path):
    (tmp_path / name).symlink_to("/mnt/unmounted")
    line = refuse(results_dir=str(tmp_path))
    assert line == f"results_dir: {tmp_path / name} is a link to /mnt/unmounted, which cannot be reached;" + (
        " fix that, or move it away"
    )


def test_a_file_instead_of_a_folder_among_the_results_is_named(tmp_path):
    (tmp_path / "params").touch()
    assert f"{tmp_path / 'params'} is not a folder" in refuse(results_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("mode", "words"), [(0o555, "is not writable; change its permissions"), (0o333, "is not readable; fix that")]
)
@pytest.mark.parametrize("below", ["", "new"])
def test_a_results_folder_without_permissions_is_rejected(mode, words, below, open_folder):
    place = open_folder / "x"
    place.mkdir()
    place.chmod(mode)
    line = call_as_nobody(lambda: path_checks.reject_results(place / below))
    assert line.startswith(f"results_dir: {place} {words}")


def test_an_unreadable_result_is_named(open_folder):
    open_folder.chmod(0o777)
    (open_folder / "adaround").mkdir()
    assert call_as_nobody(lambda: path_checks.reject_results(open_folder)) == ""
    (open_folder / "adaround").chmod(0)
    line = call_as_nobody(lambda: path_checks.reject_results(open_folder))
    assert line == f"results_dir: {open_folder / 'adaround'} is not readable; fix that, or move it away"


@pytest.mark.parametrize("key", ["prompts", "evaluation_prompts"])
def test_prompt_files_are_checked(key, tmp_path):
    (tmp_path / "x.txt").symlink_to("/mnt/unmounted/x.txt")
    line = refuse(**{key: str(tmp_path / "x.txt")})
    assert line.startswith(
        f"{key}: cannot read {tmp_path / 'x.txt'} ({tmp_path / 'x.txt'} is a link to /mnt/unmounted/"
    )
    assert refuse(**{key: str(tmp_path)}).startswith(
        f"{key}: cannot read {tmp_path} (it is not a regular file); name a file"
    )


def test_an_unreadable_prompt_file_is_named(open_folder):
    path = open_folder / "x.txt"
    path.write_text("a red circle\n")
    path.chmod(0)
    line = call_as_nobody(lambda: configuration.read_prompts(path))
    assert line.startswith(f"prompts: cannot read {path} ({path} is not readable); name a file")


class TestReferences:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "real").mkdir()
        return tmp_path / "real"

    def refuse(self, path):
        return refuse(results_dir="results", reference_pictures=str(path))

    def test_a_missing_folder_a_file_and_a_link_are_rejected(self, folder):
        (folder / "file").touch()
        (folder / "link").symlink_to("/mnt/unmounted")
        assert self.refuse(folder / "none").endswith(
            "is not a folder; name an existing one, or set reference_pictures to null"
        )
        assert "is not a folder" in self.refuse(folder / "file")
        assert "which cannot be reached" in self.refuse(folder / "link")

    def test_pictures_are_counted(self, folder):
        for name in ("a.png", "b.JPG", "c.webp", "notes.txt"):
            (folder / name).touch()
        assert f"{folder} has 3 pictures" in self.refuse(folder)
        (folder / "d.jpeg").touch()
        configuration.load({"reference_pictures": str(folder)})

    def test_reference_pictures_need_the_smallest_comparable_number(self):
        assert path_checks.FEWEST_PICTURES == FEWEST
        assert READABLE == path_checks.PICTURES


@pytest.mark.parametrize("key", ["inception", "lpips", "clip"])
def test_weights_of_feature_networks_must_exist(key, tmp_path):
    value = str(tmp_path / "none") if key == "clip" else {"path": str(tmp_path / "none"), "sha256": "0" * 64}
    wanted = "folder" if key == "clip" else "file"
    assert (
        refuse(**{key: value})
        == f"{key}: {tmp_path / 'none'} is not a {wanted}; name an existing one, or set {key} to null"
    )


class TestWeights:
    def refuse(self, weights_from, model="sd3-medium"):
        return refuse(model=model, weights_from=str(weights_from))

    def test_the_repositories_are_the_known_ones(self):
        assert set(path_checks.REPOSITORIES.values()) == set(TITLES)

    def test_missing_weights_are_rejected(self, tmp_path):
        (tmp_path / "link").symlink_to("/mnt/unmounted")
        assert f"weights_from: there is no {tmp_path / 'none'}; name a folder" in self.refuse(tmp_path / "none")
        assert "which cannot be reached" in self.refuse(tmp_path / "link")
        assert "which cannot be reached" in self.refuse(tmp_path / "link" / "sd3")

    def test_the_home_of_an_unknown_user_does_not_exist(self):
        assert "there is no ~nobody-of-this-name/sd3" in self.refuse("~nobody-of-this-name/sd3")

    def test_the_repository_of_another_model_is_rejected_with_the_correct_one(self):
        own, other = path_checks.REPOSITORIES["sd3-medium"], path_checks.REPOSITORIES["flux-schnell"]
        assert self.refuse(other).endswith(f"set it to {own}")
        assert "there is no someone/else; name" in self.refuse("someone/else")

    def test_the_content_of_an_existing_path_is_checked_by_its_job(self, tmp_path):
        for weights_from in (tmp_path, path_checks.REPOSITORIES["sd3-medium"], None):
            configuration.load({"model": "sd3-medium", "weights_from": weights_from and str(weights_from)})


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("quant_config",), ("quant_config", "-n"), ("report", "--forceall", "-n")])
def test_a_missing_disk_stops_snakemake_with_one_line_and_no_output(arguments, python, tmp_path):
    (tmp_path / "x").symlink_to(tmp_path / "unmounted")
    command = [python, "-m", "snakemake", "--cores", "1", *arguments, "--config", f"results_dir={tmp_path}/x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error:")]
    assert line.startswith(
        f"error: results_dir: {tmp_path}/x is a link to {tmp_path}/unmounted, which cannot be reached"
    )
    assert not (tmp_path / "unmounted").exists()
