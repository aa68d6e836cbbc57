"""Groups of consecutive blocks whose inputs are captured together, and the folders of their rows.

Standard library only. With one group, all readers share its rows. With more, each folder of results has rows of its
own, so that the capture of a group can wait for the results of the group before it.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from taqmlx.planning import plan
from taqmlx.planning.documents import Config

ROWS = "block_inputs.zarr"


def describe_many_groups(groups: int, blocks: int) -> str:
    """Message for more groups than blocks."""
    return f"capture_groups: {blocks} blocks have no {groups} groups; set it to {blocks} or less"


def list_groups(config: Config) -> list[list[str]]:
    """The block names of each group, in order, in runs of about equal length."""
    blocks, count = plan.list_block_names(config["model"]), config["capture_groups"]
    edges = [len(blocks) * index // count for index in range(count + 1)]
    return [blocks[start:stop] for start, stop in pairwise(edges)]


def find_span(model: str, blocks: Sequence[str] | None) -> range:
    """Indices of consecutive blocks; None for all. Raises ValueError for other names."""
    names = plan.list_block_names(model)
    if blocks is None:
        return range(len(names))
    start = names.index(blocks[0]) if blocks and blocks[0] in names else 0
    if not blocks or names[start : start + len(blocks)] != list(blocks):
        raise ValueError(f"{', '.join(blocks)} are not consecutive blocks of {model}")
    return range(start, start + len(blocks))


def list_rows(config: Config, block: str, folder: str) -> list[str]:
    """Paths in the results of the captured rows that the job of `block` for results in `folder` reads, by shard.

    These are the rows of the block's group and, if blocks are chained, those of the first, from which it starts.
    """
    shards, groups = plan.list_stage_shards(config["capture_shards"]), list_groups(config)
    if len(groups) == 1:
        return [f"{ROWS}/{shard}" for shard in shards]
    own = next(index for index, names in enumerate(groups) if block in names)
    chained = config["block_inputs"] == "quantized"
    read = dict.fromkeys([0, own] if chained else [own])
    return [f"{ROWS}/{folder}/{name_group(index)}/{shard}" for index in read for shard in shards]


def list_before(config: Config, group: str, folder: str) -> list[str]:
    """Paths in the results of the files that are finished before the rows of `group` for `folder` are captured."""
    groups, index = list_groups(config), int(group)
    return [f"{folder}/{block}.json" for block in groups[index - 1]] if index else []


def name_group(index: int) -> str:
    """Name `00`, `01`, ... of a group."""
    return f"{index:02d}"


def count_passes(config: Config) -> float:
    """Forwards that capture takes per row: each group runs the blocks from the first to its last."""
    *earlier, last = accumulate(len(names) for names in list_groups(config))
    return (sum(earlier) + last) / last
