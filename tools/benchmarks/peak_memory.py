"""Run a module as a program, then print its peak memory in MB: python -m tools.benchmarks.peak_memory MODULE ARGS."""

import runpy
import sys

from tools.benchmarks.gather_memory import read_peak

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    finally:
        print(read_peak())
