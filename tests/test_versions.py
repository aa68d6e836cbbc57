"""Which versions results were made with is recorded once each, and a change is warned about."""

import json

import pytest

from workflow_scripts import versions


def test_what_is_installed_is_recorded_once(tmp_path):
    versions.record(tmp_path)
    versions.record(tmp_path)
    assert versions.read_recorded(tmp_path) == [versions.list_installed()]
    assert versions.list_installed()["mlx"][0].isdigit()
    assert list(versions.find_changes(tmp_path)) == []


def test_another_version_is_warned_about_in_one_line_even_when_both_are_recorded(tmp_path):
    earlier = versions.list_installed() | {"mlx": "0.0.1"}
    (tmp_path / versions.FILE).write_text(json.dumps({"made_with": [earlier]}))
    versions.record(tmp_path)
    assert versions.read_recorded(tmp_path) == [earlier, versions.list_installed()]
    (line,) = versions.find_changes(tmp_path)
    assert "results of mlx 0.0.1" in line
    assert f"{versions.list_installed()['mlx']} is installed" in line


@pytest.mark.parametrize("content", [None, "", "{", "3", "[]", '{"made_with": 3}', '{"made_with": [3]}'])
def test_a_record_that_says_nothing_warns_of_nothing_and_is_made_anew(tmp_path, content):
    if content is not None:
        (tmp_path / versions.FILE).write_text(content)
    assert list(versions.find_changes(tmp_path)) == []
    versions.record(tmp_path)
    assert versions.read_recorded(tmp_path) == [versions.list_installed()]


def test_a_package_that_is_not_there_has_no_version():
    assert versions.find_version("a-package-nobody-has") == "not installed"
