"""The searched bits override the rules and are part of the origin of layers."""

import pytest

from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.mixed_bits import FORMAT, identify_bits, overlay_bits, read_mixed_bits

CHOSEN = {"mm_00.image.attn.q_proj": {"bits": 3, "group_size": 128}}
MIXED = {"mixed": {"layers": CHOSEN, "bits_per_weight": 3.25, "predicted": 0.01}}
RULES = {
    name: {
        "weight": {"bits": 4, "group_size": 64, "symmetric": False, "range": "search"},
        "activation": {"bits": 8, "policy": "dynamic"},
    }
    for name in ("mm_00.image.attn.q_proj", "mm_00.image.attn.k_proj")
}


class TestOverlay:
    def test_bits_and_group_size_come_from_the_search_and_the_rest_from_the_rules(self):
        found = overlay_bits(RULES, MIXED)
        assert found["mm_00.image.attn.q_proj"]["weight"] == {
            "bits": 3,
            "group_size": 128,
            "symmetric": False,
            "range": "search",
        }
        assert found["mm_00.image.attn.q_proj"]["activation"] == {"bits": 8, "policy": "dynamic"}

    def test_layers_the_search_left_out_keep_their_rule(self):
        assert overlay_bits(RULES, MIXED)["mm_00.image.attn.k_proj"] == RULES["mm_00.image.attn.k_proj"]

    def test_without_a_search_the_rules_apply(self):
        assert overlay_bits(RULES, None) == RULES

    def test_the_given_rules_are_not_changed(self):
        overlay_bits(RULES, MIXED)
        assert RULES["mm_00.image.attn.q_proj"]["weight"]["bits"] == 4

    def test_layers_of_other_blocks_are_not_added(self):
        assert overlay_bits({}, MIXED) == {}


class TestIdentity:
    def test_the_digest_depends_on_the_bits_only(self):
        identity = identify_bits(4.5, MIXED)
        again = {"mixed": MIXED["mixed"] | {"predicted": 0.02}, "budget": 5}
        assert identify_bits(5.0, again) == identity
        other = {"mixed": {"layers": {"mm_00.image.attn.q_proj": {"bits": 4, "group_size": 128}}}}
        assert identify_bits(4.5, other) != identity

    def test_without_a_search_there_is_no_digest(self):
        assert identify_bits(None, None) == {}

    @pytest.mark.parametrize(("size", "mixed"), [(4.5, None), (None, MIXED)], ids=["lacking", "surplus"])
    def test_a_search_is_required_with_a_configured_size_and_only_then(self, size, mixed):
        with pytest.raises(
            UserError, match=r"--mixed: mixed_bits\.json is needed where bits_per_weight is set, and only"
        ):
            identify_bits(size, mixed)


class TestReading:
    def test_a_search_is_read_as_written(self, tmp_path):
        write_json(tmp_path / "mixed_bits.json", FORMAT | MIXED)
        assert read_mixed_bits(tmp_path / "mixed_bits.json") == FORMAT | MIXED

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"mixed_bits\.json is missing; run the rule that makes it"):
            read_mixed_bits(tmp_path / "mixed_bits.json")

    def test_a_changed_file_is_named(self, tmp_path):
        path = tmp_path / "mixed_bits.json"
        write_json(path, FORMAT | MIXED)
        path.write_text(path.read_text().replace("0.01", "0.02"))
        with pytest.raises(UserError, match=r"mixed_bits\.json is damaged or was changed: .*; delete it and run again"):
            read_mixed_bits(path)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"format": "weight-costs"}, "the format weight-costs, not mixed-bits"),
            ({"version": 1}, "the version 1, not 2"),
        ],
    )
    def test_another_format_or_version_is_named(self, tmp_path, change, words):
        write_json(tmp_path / "mixed_bits.json", FORMAT | MIXED | change)
        with pytest.raises(UserError, match=rf"mixed_bits\.json belongs to {words}; delete it and run again"):
            read_mixed_bits(tmp_path / "mixed_bits.json")
