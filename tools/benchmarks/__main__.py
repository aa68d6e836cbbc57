"""Print one table of every measurement and write it to results/bench.json."""

from pathlib import Path

from taqmlx.store.files import write_json
from tools.benchmarks import blocks, distillation, gather_memory, pictures, speed, workers, workflow
from tools.benchmarks.table import as_records, format_table

OUT = Path("results/bench.json")


def main() -> None:
    rows = []
    for module in (speed, blocks, distillation, workers, gather_memory, workflow, pictures):
        print(f"{module.__doc__.splitlines()[0]}", flush=True)
        rows += module.measure()
        print(format_table(rows), flush=True)
    write_json(OUT, as_records(rows))
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
