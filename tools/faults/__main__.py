"""Run campaigns of faults and write their outcomes to docs/reliability.md and docs/reliability.csv.

python -m tools.faults                          all of them, whole
python -m tools.faults kills --count 40         one, shorter
python -m tools.faults --table-only             only the page and its data, from the outcomes there are
"""

import argparse
import importlib
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tools.faults.outcomes import append_outcome, read_outcomes
from tools.faults.table import write_document

# module: how many faults a whole campaign plants, fewer where there are no more kinds
CAMPAIGNS: dict[str, int] = {
    "kills": 500,
    "locks": 120,
    "circumstances": 150,
    "writes": 750,
    "real_obstacles": 80,
    "corruptions": 500,
    "nans": 60,
    "fuzzing": 3800,
}
OUTCOMES = Path("results/faults")
DOCUMENT = Path("docs/reliability.md")


def run_campaign(name: str, count: int, seed: int) -> None:
    """Plant `count` faults, one line of `results/faults/<name>.jsonl` each; an earlier file is replaced."""
    campaign = importlib.import_module(f"tools.faults.{name}")
    path = OUTCOMES / f"{name}.jsonl"
    path.unlink(missing_ok=True)
    tally: Counter[bool] = Counter()
    with tempfile.TemporaryDirectory(prefix=f"faults-{name}-") as folder:
        for outcome in campaign.plant(count, seed, Path(folder)):
            append_outcome(path, outcome)
            tally[outcome.survived] += 1
            if not outcome.survived:
                print(f"lost: {outcome.fault}, {outcome.place}: {outcome.note}", flush=True)
            if tally.total() % 25 == 0:
                print(f"{name}: {tally.total()} of {count}, {tally[False]} lost", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaigns", nargs="*", choices=[*CAMPAIGNS, []], help="default: all")
    parser.add_argument("--count", type=int, help="faults of each (default: by campaign)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    names = [] if arguments.table_only else arguments.campaigns or list(CAMPAIGNS)
    for name in names:
        run_campaign(name, arguments.count or CAMPAIGNS[name], arguments.seed)
    outcomes = list(read_outcomes(sorted(OUTCOMES.glob("*.jsonl"))))
    write_document(DOCUMENT, outcomes)
    return 0 if all(outcome.survived for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
