"""Tables of stages and of devices as lines of text."""

import math
from collections.abc import Iterator, Sequence

from taqmlx.budgeting.devices import DEVICES, estimate_seconds
from taqmlx.budgeting.flops import HALF, SINGLE
from taqmlx.budgeting.stages import Stage

COLUMNS = "{:<20} {:>6} {:>9} {:>8} {:>9} {:>10} {:>10}"
DEVICE_COLUMNS = "{:<20} {:>8} {:>8} {:>9} {:>9}"


def tabulate(stages: Sequence[Stage]) -> Iterator[str]:
    """Yield the table of stages as lines of text, with a total: the largest memory, and sums of everything else."""
    yield COLUMNS.format("stage", "jobs", "forwards", "PFLOP", "hours", "memory", "disk")
    known = [stage for stage in stages if math.isfinite(stage.seconds)]
    total = Stage(
        "total",
        sum(stage.jobs for stage in stages),
        sum(stage.seconds for stage in known),
        max(stage.memory for stage in known),
        sum(stage.disk for stage in stages),
        (),
        sum(stage.forwards for stage in stages),
        sum(stage.flop for stage in stages),
    )
    for stage in (*stages, total):
        work = f"{stage.forwards:,.0f}" if stage.forwards else "-", f"{stage.flop / 1e15:.3g}" if stage.flop else "-"
        hours, memory = format_hours(stage.seconds), format_bytes(stage.memory)
        yield COLUMNS.format(stage.name, stage.jobs, *work, hours, memory, format_bytes(stage.disk))


def tabulate_devices(stages: Sequence[Stage]) -> Iterator[str]:
    """Yield the table of devices as lines of text, with their estimated hours."""
    yield DEVICE_COLUMNS.format("device", HALF, SINGLE, "reached", "hours") + "  source of the TFLOP/s"
    for device in DEVICES.values():
        hours = format_hours(sum(estimate_seconds(stage, device) for stage in stages))
        speeds = (f"{device.speeds[precision]:g}" for precision in (HALF, SINGLE))
        row = DEVICE_COLUMNS.format(device.name, *speeds, f"{device.share:.0%}", hours)
        yield f"{row}  {device.basis}: {device.source}"
    yield "reached: share of the TFLOP/s, assumed; trajectories and text encoders in fp16, learned linear layers in"
    yield "learning_dtype, everything else in fp32"


def format_hours(seconds: float) -> str:
    """Hours with three digits, or a dash for an unknown time."""
    return f"{seconds / 3600:.3g}" if seconds < 3.6e6 else f"{seconds / 3600:,.0f}" if math.isfinite(seconds) else "-"


def format_bytes(count: float) -> str:
    """Bytes as MB or GB (1000 MB), or a dash for an unknown size."""
    if not math.isfinite(count):
        return "-"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
