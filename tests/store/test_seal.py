"""A seal proves the origin of a result and detects its own damage."""

import json
from pathlib import Path

import pytest

from taqmlx.planning import plan
from taqmlx.store.errors import UserError
from taqmlx.store.products import VARIABLE
from taqmlx.store.seal import (
    GROUP,
    check_origin,
    check_seal,
    holds_group,
    identify_work,
    make_seal,
    read_file_seal,
    read_group_seal,
    write_group_seal,
)

PARAMETERS = {"steps": 5, "prompts": ["été"], "cfg_scale": 1.5}
INPUTS = {"model": {"a.safetensors": "00"}}
SEAL = make_seal(PARAMETERS, INPUTS, {"b": "11"})
PLACE = Path("results/x")


def test_equal_work_has_equal_seals():
    assert make_seal(dict(reversed(PARAMETERS.items())), INPUTS, {"b": "11"}) == SEAL
    assert SEAL["fingerprint"] == plan.fingerprint({"parameters": PARAMETERS, "inputs": INPUTS})


def test_a_seal_is_restored_from_json():
    assert check_seal(json.loads(json.dumps(SEAL)), PLACE) == SEAL


@pytest.mark.parametrize(
    "key", ["format", "parameters", "inputs", "fingerprint", "sha256", "fp32_products", "checksum"]
)
def test_any_change_to_a_seal_is_found(key):
    with pytest.raises(UserError, match="results/x has a damaged seal"):
        check_seal(SEAL | {key: "changed"}, PLACE)


def test_a_seal_says_how_fp32_products_were_computed(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1")
    other = make_seal(PARAMETERS, INPUTS, {"b": "11"})
    assert (SEAL["fp32_products"], other["fp32_products"]) == ("fp32", "TF32 allowed")
    assert other["checksum"] != SEAL["checksum"]
    assert check_seal(other, PLACE) == other
    assert identify_work(other) == identify_work(SEAL) != identify_work(make_seal(PARAMETERS, INPUTS, {"b": "12"}))


def test_the_seals_of_earlier_versions_hold_and_stand_for_the_same_work():
    """Written by 30f5514, which recorded the products in versions.json alone."""
    old = {key: SEAL[key] for key in ("format", "parameters", "inputs", "fingerprint", "sha256")}
    old["checksum"] = "530f1352ede6a1bade6b92df371c42f2b953505df402f12e5d429a7162433006"
    assert check_seal(old, PLACE) == old
    check_origin(old, PLACE, PARAMETERS, INPUTS)
    assert identify_work(SEAL) == identify_work(old) == old["checksum"]


@pytest.mark.parametrize("value", [None, {}, [], "x"])
def test_a_missing_seal_means_unfinished(value):
    with pytest.raises(UserError, match="results/x has no seal"):
        check_seal(value, PLACE)


def test_other_origins_are_named():
    check_origin(SEAL, PLACE, {"steps": 5}, INPUTS)
    with pytest.raises(UserError, match=r"other parameters \(steps: 5 there, 6 in"):
        check_origin(SEAL, PLACE, {"steps": 6}, INPUTS)
    with pytest.raises(UserError, match="other inputs"):
        check_origin(SEAL, PLACE, {}, {"model": {"a.safetensors": "01"}})


def test_a_group_contains_its_seal(tmp_path):
    (tmp_path / "zarr.json").write_text(json.dumps(GROUP | {"attributes": {"kept": 1}}))
    write_group_seal(tmp_path, SEAL)
    assert read_group_seal(tmp_path) == SEAL
    assert json.loads((tmp_path / "zarr.json").read_text())["attributes"]["kept"] == 1


@pytest.mark.parametrize("content", ["[]", "{}", '{"attributes": 3}', '{"attributes": {"seal": 3}}', "{"])
def test_a_damaged_group_is_named(tmp_path, content):
    (tmp_path / "zarr.json").write_text(content)
    with pytest.raises(UserError, match=tmp_path.name):
        read_group_seal(tmp_path)


def test_a_missing_seal_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"x.json is missing"):
        read_file_seal(tmp_path / "x.json")


def test_finished_means_sealed_with_the_same_origin(tmp_path):
    assert not holds_group(tmp_path / "absent", PARAMETERS, INPUTS)
    assert not holds_group(tmp_path, PARAMETERS, INPUTS)
    (tmp_path / "zarr.json").write_text(json.dumps(GROUP | {"attributes": {"seal": SEAL}}))
    assert holds_group(tmp_path, PARAMETERS, INPUTS)
    with pytest.raises(UserError, match="other parameters"):
        holds_group(tmp_path, PARAMETERS | {"steps": 6}, INPUTS)
