"""What Snakemake and Slurm said of a run, in a few lines."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

SUBMITTED = re.compile(r"submitted with SLURM jobid (\d+) \(log: \S*slurm_logs/(?:rule|group)_(\w+)")
AGAIN = re.compile(r"^Trying to restart job (\d+)", re.M)
COLUMNS = "{:<22} {:>5} {:>10} {:>10}  {}"


class Summary(NamedTuple):
    """title; what Snakemake said; Slurm's records of ended jobs; remarks."""

    title: str
    said: str
    records: list[dict[str, str]]
    remarks: Sequence[str]

    def tabulate(self) -> Iterator[str]:
        """A line for each rule: its jobs, their mean and longest seconds, and how they ended."""
        rules = dict(SUBMITTED.findall(self.said))
        ended = defaultdict(list)
        for record in self.records:
            if record["JobId"] in rules:
                ended[rules[record["JobId"]]].append(record)
        yield COLUMNS.format("rule", "jobs", "mean s", "longest s", "how they ended")
        for rule, records in ended.items():
            seconds = [measure_seconds(record) for record in records]
            states = [record["JobState"] for record in records]
            counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
            mean = sum(seconds) / len(seconds)
            yield COLUMNS.format(rule[:22], len(records), f"{mean:.0f}", f"{max(seconds):.0f}", counts)
        yield f"sent to Slurm: {len(rules)}; sent again by Snakemake: {len(AGAIN.findall(self.said))}"
        yield from self.remarks


def measure_seconds(record: dict[str, str]) -> float:
    """Seconds a job ran, at Slurm's resolution of one; 0 for one that did not start."""
    try:
        start, end = (datetime.fromisoformat(record[key]) for key in ("StartTime", "EndTime"))
    except ValueError:
        return 0.0
    return (end - start).total_seconds()
