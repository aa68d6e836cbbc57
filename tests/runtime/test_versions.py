"""The versions that made results are recorded once each, and a change is a warning."""

import pytest

from taqmlx.runtime import versions
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json


def test_the_installed_versions_are_recorded_once(tmp_path):
    versions.record(tmp_path)
    versions.record(tmp_path)
    assert versions.read_recorded(tmp_path) == [versions.list_installed()]
    assert versions.list_installed()["mlx"][0].isdigit()
    assert list(versions.find_changes(tmp_path)) == []


def test_another_version_is_warned_about_in_one_line_even_when_both_are_recorded(tmp_path):
    earlier = versions.list_installed() | {"mlx": "0.0.1"}
    write_json(tmp_path / versions.FILE, {"made_with": [earlier]})
    versions.record(tmp_path)
    assert versions.read_recorded(tmp_path) == [earlier, versions.list_installed()]
    (line,) = versions.find_changes(tmp_path)
    assert "made with mlx 0.0.1" in line
    assert f"{versions.list_installed()['mlx']} is installed" in line


@pytest.mark.parametrize("made_with", [3, [3], [{"mlx": 3}], [{"mlx": ["0.0.1"]}], {}])
def test_a_record_with_another_layout_is_rejected_with_its_cure(tmp_path, made_with):
    write_json(tmp_path / versions.FILE, {"made_with": made_with})
    for read in (versions.record, lambda results: list(versions.find_changes(results))):
        with pytest.raises(
            UserError, match=r"versions\.json is not a valid record of versions; delete it and run again"
        ):
            read(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "3", "[]", '{"made_with": []}'])
def test_a_damaged_record_is_rejected_with_its_cure(tmp_path, content):
    (tmp_path / versions.FILE).write_text(content)
    with pytest.raises(UserError, match=r"versions\.json is damaged.*delete it and run again"):
        list(versions.find_changes(tmp_path))


def test_without_a_record_there_is_no_warning(tmp_path):
    assert list(versions.find_changes(tmp_path)) == []


def test_a_missing_package_has_no_version():
    assert versions.find_version("a-package-nobody-has") == "not installed"


def test_an_earlier_record_without_kernels_stays_valid(tmp_path):
    earlier = {name: version for name, version in versions.list_installed().items() if name != versions.KERNELS}
    write_json(tmp_path / versions.FILE, {"made_with": [earlier]})
    assert list(versions.find_changes(tmp_path)) == []
    versions.record(tmp_path)
    assert versions.read_recorded(tmp_path) == [earlier, versions.list_installed()]


def test_other_blas_kernels_are_warned_about_in_one_line(tmp_path):
    here = versions.list_installed()
    write_json(tmp_path / versions.FILE, {"made_with": [here | {versions.KERNELS: "Nehalem"}, here]})
    (line,) = versions.find_changes(tmp_path)
    assert f"made with BLAS kernels Nehalem, but {here[versions.KERNELS]} are used here: new results" in line


def test_products_in_tf32_are_warned_about(tmp_path):
    here = versions.list_installed()
    write_json(tmp_path / versions.FILE, {"made_with": [here | {versions.PRODUCTS: "TF32 allowed"}]})
    (line,) = versions.find_changes(tmp_path)
    assert f"made with fp32 products TF32 allowed, but {here[versions.PRODUCTS]} are used here: new results" in line
