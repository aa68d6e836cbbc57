"""Start and stop a one-node Slurm by hand: `python -m tools.slurm up FOLDER`, then `down FOLDER`."""

import argparse
import sys
from pathlib import Path

from tools.slurm.node import SlurmNode, explain_absence


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    node = SlurmNode(arguments.folder)
    if arguments.action == "down":
        node.down()
        return 0
    if reason := explain_absence():
        print(reason, file=sys.stderr)
        return 1
    node.up()
    print(f'export PATH={node.folder / "bin"}:"$PATH"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
