"""Parts that run other programs: the tests, the main job, and `make bench`; each gives its numbers by name."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from taqmlx.store.files import read_json
from tools.benchmarks.table import call
from tools.benchmarks.workflow import CONFIG, QUICK, measure_stages, run_snakemake, write_config

Numbers = dict[str, float]
# Tests, settings of the main job and modules of the bench, by size.
TESTS = {"sd3-medium": ["-m", "not whole"], "small": ["tests/numerics/test_schedule.py"]}
PRESETS = {"sd3-medium": CONFIG, "small": QUICK}
SHORT = {"trajectories": 2, "steps": 4, "selected_steps": 2, "capture_points": 4, "folds": []}
SHORT |= {"engine": "rtn", "distil": "none", "bits_per_weight": None}
SETTINGS = {"sd3-medium": {}, "small": SHORT}
BENCHES: dict[str, list[str]] = {"sd3-medium": [], "small": ["gather_memory"]}


def run_tests(size: str) -> Numbers:
    """Numbers of tests, of those that failed or were skipped, and seconds. Failures do not end the command."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        start = time.perf_counter()
        try:
            call("-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *TESTS[size])
        except RuntimeError:
            if not report.exists():
                raise
        (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    counts = {key: float(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    return counts | {"elapsed_s": time.perf_counter() - start}


def run_main_job(size: str) -> Numbers:
    """Minutes of the main job, and of the jobs of each stage."""
    with tempfile.TemporaryDirectory() as name:
        config = write_config(Path(name), PRESETS[size], **SETTINGS[size])
        seconds = run_snakemake(config, "quant_config", cores=2)
        rows = measure_stages(Path(name) / "results")
    stages = {row.name.split()[-1]: row.value for row in rows if row.unit == "min"}
    return {"elapsed_min": seconds / 60} | {f"{stage}_min": value for stage, value in stages.items()}


def run_bench(size: str) -> Numbers:
    """The value of every row of `make bench`."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "bench.json"
        call("-m", "tools.benchmarks", "--out", str(out), *BENCHES[size])
        return {name: row["value"] for name, row in read_json(out).items()}


JOBS: dict[str, Callable[[str], Numbers]] = {"tests": run_tests, "main_job": run_main_job, "bench": run_bench}
