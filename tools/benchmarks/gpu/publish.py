"""Where the numbers of a GPU go: the group `gpu` of docs/numbers.json, and the entries `gpu` of the budget's costs."""

import json
from pathlib import Path
from typing import Any

from taqmlx.planning.plan import list_block_names
from taqmlx.report.numbers import shorten
from taqmlx.store.files import read_plain_json, write_atomically, write_plain_json

MODEL = "sd3-medium"
Record = dict[str, dict[str, float]]


def write_numbers(path: Path, record: Record, machine: str) -> None:
    """Replace the group `gpu`; the other groups stay."""
    known = read_plain_json(path)
    write_plain_json(path, known | {"gpu": shorten(record | {"measured": {"machine": machine}})})


def write_costs(path: Path, record: Record, machine: str) -> None:
    """Replace the entry `gpu` of MODEL: seconds of a block for a guided pair of rows, and of learning."""
    costs = json.loads(path.read_text(encoding="utf-8"))
    costs[MODEL]["gpu"] = derive_costs(record, machine)
    text = json.dumps(costs, indent=2)
    write_atomically(path, lambda partial: partial.write_text(f"{text}\n", encoding="utf-8"))


def derive_costs(record: Record, machine: str) -> dict[str, Any]:
    """Costs from steps in fp16 and from an iteration of two rows in fp32."""
    steps, learning, blocks = record["steps"], record["learning"], len(list_block_names(MODEL))
    pairs = [
        [round(steps["image_tokens"] + steps[f"{place}_tokens"]), steps[f"fp16_{place}_s"] / blocks]
        for place in ("short", "long")
    ]
    row = learning["fp32_s"] / 2 / pairs[0][1]
    return {
        "machine": machine,
        "basis": "from steps and blocks of that size, random weights, measured",
        "block_pair_seconds": shorten(pairs),
        "learn_seconds": {"per_iteration": 0, "per_row_over_pair": shorten(row)},
    }
