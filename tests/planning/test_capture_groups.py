"""Groups of blocks are runs of about equal length, and a block's job reads the rows of its group alone."""

import pytest

from taqmlx.planning import capture_groups, configuration, plan

FIVE = ["mm_00", "mm_01", "mm_02", "mm_03", "mm_04"]


def complete(**values):
    return configuration.complete(values, configuration.load_schema())


@pytest.mark.parametrize(
    ("model", "groups", "lengths"),
    [("embedded", 1, [5]), ("embedded", 2, [2, 3]), ("embedded", 5, [1] * 5), ("sd3-medium", 5, [4, 5, 5, 5, 5])],
)
def test_groups_are_runs_of_about_equal_length(model, groups, lengths):
    found = capture_groups.list_groups(complete(model=model, capture_groups=groups))
    assert [len(names) for names in found] == lengths
    assert [name for names in found for name in names] == plan.list_block_names(model)


def test_with_one_group_all_readers_share_the_folders_of_the_shards():
    config = complete(capture_shards=2)
    for block, folder in (("mm_00", "adaround"), ("mm_04", "ladder/w4a8")):
        assert capture_groups.list_rows(config, block, folder) == ["block_inputs.zarr/00", "block_inputs.zarr/01"]


def test_with_more_groups_a_block_reads_those_of_its_group_in_the_folder_of_its_results():
    config = complete(capture_shards=2, capture_groups=2)
    found = {block: capture_groups.list_rows(config, block, "adaround") for block in FIVE}
    first, second = (
        [f"block_inputs.zarr/adaround/{group}/{shard}" for shard in ("00", "01")] for group in ("00", "01")
    )
    assert list(found.values()) == [first, first, second, second, second]


def test_a_chained_block_reads_those_of_the_first_group_too():
    config = complete(capture_shards=1, capture_groups=2, block_inputs="quantized")
    first, second = (f"block_inputs.zarr/adaround/{group}/00" for group in ("00", "01"))
    assert capture_groups.list_rows(config, "mm_01", "adaround") == [first]
    assert capture_groups.list_rows(config, "mm_02", "adaround") == [first, second]


def test_a_group_waits_for_the_results_of_the_group_before():
    config = complete(capture_groups=2)
    assert capture_groups.list_before(config, "00", "adaround") == []
    assert capture_groups.list_before(config, "01", "adaround") == ["adaround/mm_00.json", "adaround/mm_01.json"]


def test_consecutive_blocks_have_a_span():
    assert capture_groups.find_span("embedded", None) == range(5)
    assert capture_groups.find_span("embedded", ["mm_02", "mm_03"]) == range(2, 4)


@pytest.mark.parametrize("names", [[], ["mm_05"], ["mm_01", "mm_03"], ["mm_01", "mm_00"], ["mm_04", "mm_05"]])
def test_other_names_have_none(names):
    with pytest.raises(ValueError, match="are not consecutive blocks of embedded"):
        capture_groups.find_span("embedded", names)


@pytest.mark.parametrize(("groups", "passes"), [(1, 1), (2, 7 / 5), (5, 15 / 5)])
def test_each_group_runs_the_blocks_up_to_its_last(groups, passes):
    assert capture_groups.count_passes(complete(capture_groups=groups)) == pytest.approx(passes)
