"""Print one table of every measurement and write it to results/bench.json: all modules, or those named."""

import argparse
from pathlib import Path

from taqmlx.store.files import write_json
from tools.benchmarks import blocks, distillation, gather_memory, pictures, speed, workers, workflow
from tools.benchmarks.kernels import warn_if_held
from tools.benchmarks.table import as_records, format_table

MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (speed, blocks, distillation, workers, gather_memory, workflow, pictures)
}


def main(arguments: argparse.Namespace) -> None:
    warn_if_held()
    rows = []
    for name in arguments.modules or MODULES:
        module = MODULES[name]
        print(f"{module.__doc__.splitlines()[0]}", flush=True)
        rows += module.measure()
        print(format_table(rows), flush=True)
    write_json(arguments.out, as_records(rows))
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", choices=[*MODULES, []], help="default: all")
    parser.add_argument("--out", type=Path, default=Path("results/bench.json"), help="default: %(default)s")
    main(parser.parse_args())
