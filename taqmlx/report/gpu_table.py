"""The table of what was measured on a GPU: the group `gpu` of the measured numbers, which `make bench-gpu` writes."""

from taqmlx.report.numbers import Numbers
from taqmlx.report.study_tables import tabulate
from taqmlx.report.tables import Facts

# Title, part and key of each row, and the format of its value.
ROWS = (
    ("main job, elapsed, min", "main_job", "elapsed_min", ".1f"),
    ("a step of SD3 Medium at 256 pixels with T5, fp32, s", "steps", "fp32_long_s", ".3g"),
    ("the same, fp16, s", "steps", "fp16_long_s", ".3g"),
    ("the same, packed W4A16, s", "steps", "w4a16_long_s", ".3g"),
    ("its peak memory, fp16, MB", "steps", "fp16_mb", ",.0f"),
    ("the same, packed W4A16, MB", "steps", "w4a16_mb", ",.0f"),
    ("learning iteration of 2 rows of a block of SD3 Medium, fp32, s", "learning", "fp32_s", ".3g"),
    ("the same, products in bf16, s", "learning", "bf16_s", ".3g"),
    ("its peak memory, fp32, MB", "learning", "fp32_mb", ",.0f"),
    ("the same, products in bf16, MB", "learning", "bf16_mb", ",.0f"),
    ("tests run", "tests", "tests", ",.0f"),
    ("tests failed", "tests", "failures", ",.0f"),
)
MISSING = "Not measured yet: no GPU could be had."


def show_gpu(numbers: Numbers) -> str:
    """Speed and memory on the machine that was measured, or that there is none."""
    if "gpu" not in numbers:
        return MISSING
    found: Facts = numbers["gpu"]
    rows = [[title, format(found[part][key], form)] for title, part, key, form in ROWS]
    return tabulate(["", found["measured"]["machine"]], rows)
