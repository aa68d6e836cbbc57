"""Hours of a configuration on named devices, from operations and a table of speeds. Nothing is measured here.

A speed is the published peak of the device, or a product of large matrices that others measured. Work reaches a share
of it, which is assumed: the table has one share for each basis. fp32 of an M3 Ultra is that of fp16, as on every Mac.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from taqmlx.budgeting.flops import HALF, SINGLE
from taqmlx.budgeting.stages import Stage

_TABLE = json.loads(Path(__file__).with_name("devices.json").read_text(encoding="utf-8"))


class Device(NamedTuple):
    """TFLOP/s by precision; what they are (`basis`) and where they are from; and the share of them that is reached."""

    name: str
    speeds: dict[str, float]
    basis: str
    source: str
    share: float


DEVICES = {
    name: Device(
        name,
        {precision: own[precision] for precision in (HALF, SINGLE)},
        own["basis"],
        own["source"],
        _TABLE["share"][own["basis"]],
    )
    for name, own in _TABLE["devices"].items()
}


def estimate_seconds(stage: Stage, device: Device) -> float:
    """Seconds of a stage on a device: the operations at the share of its speed that is reached."""
    seconds = stage.half / device.speeds[HALF] + (1 - stage.half) / device.speeds[SINGLE]  # of one TFLOP at full speed
    return stage.flop * seconds / (device.share * 1e12)


def time_stages(stages: Iterable[Stage], device: Device) -> list[Stage]:
    """The stages with their estimated seconds on a device."""
    return [stage._replace(seconds=estimate_seconds(stage, device)) for stage in stages]
