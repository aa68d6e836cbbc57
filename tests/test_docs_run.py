"""Every command in the documents is run in a clone with small settings, unless another test runs it.

A new command needs nothing here if it can run on the clone's finished run. One that another test runs already is named
in a table; the section of one whose model needs real weights says so: see `tests/support/documents.py`. Commands
that only name targets of the default configuration are run together, all targets at once.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.documents import DOCUMENTS, list_python, parse_snakemake, read_commands
from tests.support.warm import start_warm_python

COMMANDS = list({c.line: c for path in DOCUMENTS for c in read_commands(path) if not c.needs_weights}.values())
IGNORED = (".git", ".venv*", "results", ".snakemake", "__pycache__", ".*_cache", "*.egg-info")

# The clone's config/config.yaml and config/quick.yaml have these values: the commands stay as they are written.
SMALL = {
    "trajectories": 8,  # the documents name shard 007
    "prompts_per_shard": 1,
    "steps": 4,
    "selected_steps": 2,
    "statistics_shards": 1,
    "capture_points": 4,
    "capture_shards": 1,
    "weights": [{"layers": "*", "bits": 4, "range": "absmax"}],
    "folds": [{"layers": "mm_00.*", "kind": kind} for kind in ("scale", "centre")],
    "engine": "rtn",
    "adaround_iterations": 2,
    "search_points": 4,
    "search_probes": 2,
    "distil_iterations": 2,
    "distil_batch": 2,
    "frontier_sizes": [4.5],
    "frontier_pictures": 4,
    "ladder_pictures": 4,
    "ladder_steps": 2,
    "evaluation_variants": ["fp", "w4a8"],
    "evaluation_pictures": 4,
    "ablation_pictures": 4,
    "evaluation_steps": 2,
    "evaluation_shards": 1,
    "snapshot_steps": [0],
}
ONE_SHARD = {"trajectories": 4, "prompts_per_shard": 4}
# The configurations of the clone that have them, with what is their own.
OWN_SETTINGS = {
    "config": {},
    "quick": ONE_SHARD | {"results_dir": "results/quick"},
    "hard-quick": ONE_SHARD | {"results_dir": "results/hard-quick", "model": "embedded-hard"},
    "hard": ONE_SHARD | {"results_dir": "results/hard-quick"},  # what is made of it already
}
# What is no configuration, and has these values in the clone too.
SMALLER = {
    "taqmlx/training/recipe.py": {
        "POOL_SIZE = 200_000": "POOL_SIZE = 256",
        "LATENT_POOL = 100_000": "LATENT_POOL = 128",
        "steps=3_000": "steps=4",
        "steps=4_000": "steps=4",
        "steps=1_500": "steps=4",
        "SCORED_CAPTIONS = 5, 512": "SCORED_CAPTIONS = 5, 32",
        "6, 96, (1.5, 2.0, 3.0, 4.0)": "6, 32, (1.5, 3.0)",
        "SCORED_STEPS = 50": "SCORED_STEPS = 4",
        "REAL_PICTURES = 2_048": "REAL_PICTURES = 64",
    },
    # Rungs of each engine, with folds, and block after block; one row. All are learned by
    # tests/optimise_block/test_rungs.py.
    "taqmlx/planning/ladder.py": {
        "OWN, OWN_TITLE =": "KEPT = (FULL_PRECISION, 'w4a8_rtn_static', 'w4a8_rtn_sigma', 'w4a8_rtn_scale')\n"
        "KEPT += ('w4a8_gptq', 'w4a8_sequential')\n"
        "RUNGS = {name: rung for name, rung in RUNGS.items() if name in KEPT}\nOWN, OWN_TITLE =",
        '{"layers": "*", "kind": kind}': '{"layers": "mm_00.*", "kind": kind}',
        '"w4a8_sequential": "w4a8_from_gptq"': '"w4a8_sequential": "w4a8_gptq"',
    },
    "taqmlx/planning/ablation.py": {"VARIANTS =": "ROWS = {'paper_migration': ROWS['paper_migration']}\nVARIANTS ="},
    "tools/benchmarks/speed.py": {"ROUNDS = 7": "ROUNDS = 1"},
    "tools/benchmarks/samplers.py": {"STEPS, CFG_WEIGHT = 25": "STEPS, CFG_WEIGHT = 2", "BATCH = 13": "BATCH = 2"},
    "tools/benchmarks/blocks.py": {
        "ITERATIONS = 300": "ITERATIONS = 4",
        '"trajectories": 40, "steps": 25, "selected_steps": 25': '"trajectories": 4, "steps": 4, "selected_steps": 4',
        '"capture_points": 256': '"capture_points": 16',
    },
    # Threads that wait for each other keep the cores of other tests busy.
    "tools/benchmarks/learners.py": {"CHUNK = 20": "CHUNK = 2", "threads=2": "threads=1"},
    "tools/benchmarks/large_block.py": {
        "1536, 24, 4, 256, 154": "128, 2, 4, 16, 8",
        "ITERATIONS = 5": "ITERATIONS = 1",
    },
    "tools/benchmarks/distillation.py": {"ROUNDS = 6": "ROUNDS = 1"},
    "tools/benchmarks/distillers.py": {
        "CHUNK = 4": "CHUNK = 1",
        "partial(build_torch, 2)": "partial(build_torch, 1)",
        "POINTS, BATCH, TEXT, WIDTH = 64, 32": "POINTS, BATCH, TEXT, WIDTH = 8, 4",
    },
    "tools/benchmarks/workers.py": {"}, 7)": "}, 1)", "}, 5)": "}, 1)"},
    "tools/benchmarks/gather_memory.py": {
        "SCALES = (1, 10, 50)": "SCALES = (1, 2)",
        "LATENT_SHAPE = 256, 100, 25": "LATENT_SHAPE = 16, 8, 4",
    },
    "tools/benchmarks/workflow.py": {'"quant_config")}, 3)': '"quant_config")}, 1)'},
    "tools/benchmarks/calibration_sets.py": {
        '(20, 64, 256, 1024), ("1.5", "3", "mixed"), (256, 1024, 4096)': '(4, 8), ("3", "mixed"), (16, 32)',
        'CENTRE = (256, "3", 1024)': 'CENTRE = (8, "3", 16)',
        "256, 100, 6400": "8, 8, 64",
        "PICTURE_SEED, CAPTION_SEED = 128": "PICTURE_SEED, CAPTION_SEED = 4",
        "ITERATIONS, BATCH = 150": "ITERATIONS, BATCH = 2",
        "complete({}": "complete({'search_points': 4, 'search_probes': 2}",
        '"range": "search"': '"range": "absmax"',
    },
    "tools/benchmarks/pictures.py": {
        "28, 3.0, 7": "2, 3.0, 1",
        '"fp", "rtn_w4a8", "w4a16", "w4a8", "multitier"': '"fp", "w4a8"',
    },
    "tools/benchmarks/outliers.py": {
        "64, 9_000_000, 28": "2, 9_000_000, 2",
        "(0.99, 0.9, 0.7, 0.4, 0.1), 8": "(0.7,), 8",
    },
    "tools/benchmarks/scale.py": {"10_000, 50": "40, 10", "Scale(3 * PROMPTS // 10), ": ""},
}
# What a command says itself and is too long.
SHORTER = {"adaround_iterations=20000": "adaround_iterations=2"}
# What another test, or a step of the checks, runs.
TABLE = "tests/compat/test_translation.py::test_the_table_of_the_document_has_the_translations"
URLS = "tests/workflow/test_trajectories_url.py::test_the_calibration_set_equals_that_of_a_local_store"
ELSEWHERE = {
    r"make test": ".ci/run::make test",
    r"make lint": ".ci/run::lint docs",
    r"make docs": ".ci/run::lint docs",
    r"make kernels": ".ci/run::make kernels",
    r"make mflux": "tests/mflux/test_transformer.py::test_the_velocity_is_ours_in_fp32",
    r"make everything": "tests/workflow/test_every_file.py::"
    "test_a_flipped_bit_in_any_kind_of_file_is_found_and_named_with_its_target",
    r"python -m src\..*": "tests/compat/test_chain.py::test_from_trajectories_to_a_picture",
    r"snakemake .* (calibration_data|dry_run_cali)/config.yaml.*": TABLE,
    r"python -m workflow_scripts\.(?!tools\.write_import)[\w.]+ --.*(calibration_data\b|quantized_weights).*": TABLE,
    r"(make slurm|snakemake --profile .*)": "tests/tools/slurm/test_slurm.py::"
    "test_a_cancelled_job_and_a_dead_node_change_nothing",
    r"(squeue|scancel) --me": "tests/tools/slurm/test_slurm.py::"
    "test_jobs_that_outlive_snakemake_and_their_successors_end_with_equal_bytes",
    r"rsync .*": "tests/workflow/test_two_machines.py::"
    "test_copied_work_is_accepted_and_the_result_equals_that_of_one_machine",
    r"snakemake .* --resources mlx=1": "tests/workflow/test_profiles.py::"
    "test_with_one_token_mlx_jobs_run_one_at_a_time_and_others_beside_them",
    r"snakemake .* --batch .*": "tests/workflow/test_many_prompts.py::test_shards_can_be_made_in_batches",
    r"python .*s3://.*": "tests/test_object_storage.py::test_shards_are_copied_to_a_url_and_back",
    r"(snakemake .*s3://|rm -r results/run1/).*": URLS,
    r"python -m workflow_scripts\.tools\.(collect|fill)_numbers.*": "tests/workflow_scripts/tools/"
    "test_collect_numbers.py::test_documents_are_filled_in_place",
    r"snakemake .*weights_ladder\.json --config.*": "tests/test_docs.py::test_every_target_can_be_planned",
    r"python -m workflow_scripts\.tools\.compare_ladders .*": "tests/workflow_scripts/tools/"
    "test_compare_ladders.py::test_a_rung_has_both_ratios_the_loss_and_both_gains",
    r"make faults": "tests/tools/faults/test_kills.py::test_killed_workers_end_with_the_same_bytes",
    r"python -m tools\.benchmarks\.real_size .*": "tests/tools/benchmarks/test_real_size.py::"
    "test_every_stage_and_block_is_measured_once",
    r"hf upload \S+ \S+": "tests/test_docs.py::test_an_upload_takes_a_repository_and_a_folder",
    r"make bench-gpu.*": "tests/tools/benchmarks/test_gpu.py::test_without_a_gpu_it_stops_in_one_line",
    r"python -m tools\.benchmarks\.gpu --device cpu .*": "tests/tools/benchmarks/test_gpu.py::"
    "test_every_part_is_measured",
}
# Minutes however small, so that they go last.
LONG = ("ablation", "results/weights_ladder.json", "train_embedded_model", "bench", "scale", "config/hard.yaml")
WHOLE = "tests/test_docs_run.py::test_the_long_command_succeeds"
PLANS = "tests/test_docs.py::test_every_target_can_be_planned"
AFTER_LOSS = "snakemake --cores 1 trajectories quant_config"  # what a shard was deleted for

pytestmark = [pytest.mark.slow, pytest.mark.whole]


def list_plain_targets(line):
    """The targets of a command that has nothing else, and that are made here; none for another command."""
    words = shlex.split(line)
    if words[0] == "make":
        found = words[1:2] if re.fullmatch(r"results/(?!quick/).*", words[1]) else []
    elif words[0] == "snakemake" and line != AFTER_LOSS:
        given = parse_snakemake(words)
        others = (given.config, given.configfile, given.dryrun, given.unlock, given.report, find_elsewhere(line))
        found = [] if any(others) else given.targets
    else:
        found = []
    return [target for target in found if target not in LONG]


def find_elsewhere(line):
    """Which test runs a command, if none of those below does."""
    for pattern, test in ELSEWHERE.items():
        if re.fullmatch(pattern, line):
            return test
    if " -n" in line:
        return PLANS
    return WHOLE if line.endswith(LONG) else None


PLAIN = [c.line for c in COMMANDS if list_plain_targets(c.line)]
OWN = [c for c in COMMANDS if c.line not in PLAIN and not find_elsewhere(c.line)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the project with small settings, a finished main job, and what a user of the documents would have."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    shutil.copytree(".", folder, ignore=shutil.ignore_patterns(*IGNORED), symlinks=True)
    for name, own in OWN_SETTINGS.items():
        path = folder / "config" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | SMALL | own))
    for name, values in SMALLER.items():
        text = (folder / name).read_text()
        for given, smaller in values.items():
            assert given in text
            text = text.replace(given, smaller)
        (folder / name).write_text(text)
    (folder / "my_prompts.txt").write_text("a red circle\n")
    (folder / "my_config.yaml").write_text("results_dir: results/my\nprompts: my_prompts.txt\n")
    with start_warm_python(folder, {"PYTHONPATH": str(folder)}, in_copies=True) as python:
        set_up_environment(folder / ".venv" / "bin", python)
        targets = sorted({t for c in PLAIN for t in list_plain_targets(c)})
        run(folder, shlex.join(["snakemake", "--cores", "2", "exports", *targets]))
        shutil.copytree(folder / "results" / "exports", folder / "calibration_data")
        yield folder


def set_up_environment(programs, python):
    """The programs of the environment that runs this, with another Python."""
    programs.mkdir(parents=True)
    for path in (Path(sys.prefix) / "bin").iterdir():
        (programs / path.name).symlink_to(path)
    for name, words in (("python", python), ("snakemake", f"{python} -m snakemake")):
        (programs / name).unlink()
        (programs / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (programs / name).chmod(0o755)


def run(folder, line):
    """Run a command in the clone as a user with the environment active would; what it says."""
    for given, shorter in SHORTER.items():
        line = line.replace(given, shorter)
    if line.startswith("make "):
        line += " --assume-old .venv/installed"  # the environment is there
    environment = os.environ | {"PATH": f"{folder}/.venv/bin:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}"
    return done.stdout


def test_all_targets_that_commands_name_are_made(clone):
    made = {target for line in PLAIN for target in list_plain_targets(line)}
    assert {"quant_config", "report", "fid", "verify_dataset", "analysis", "results/report.html"} <= made
    assert all((clone / target).exists() for target in made if target.startswith("results/"))


@pytest.mark.parametrize("command", OWN, ids=str)
def test_the_command_succeeds(command, clone):
    run(clone, command.line)


@pytest.mark.parametrize("code", [code for path in DOCUMENTS for code in list_python(path.read_text(encoding="utf-8"))])
def test_the_python_code_of_a_document_loads_the_result(code, clone):
    quantized = "print(sum(isinstance(module, nn.QuantizedLinear) for _, module in model.named_modules()))"
    said = run(clone, shlex.join(["python", "-c", f"{code}\n{quantized}"]))
    assert said.split()[-1] == "74", said


@pytest.mark.parametrize("command", [c for c in COMMANDS if find_elsewhere(c.line) == WHOLE], ids=str)
def test_the_long_command_succeeds(command, clone):
    run(clone, command.line)


@pytest.mark.parametrize("test", sorted({*ELSEWHERE.values(), PLANS, WHOLE}))
def test_the_test_that_runs_a_command_exists(test):
    path, _, name = test.partition("::")
    text = Path(path).read_text(encoding="utf-8")
    assert re.search(rf"^ *def {name}\(", text, re.M) if path.endswith(".py") else name in text


def test_every_command_of_the_tables_is_in_a_document():
    lines = [c.line for c in COMMANDS]
    assert all(any(re.fullmatch(pattern, line) for line in lines) for pattern in ELSEWHERE)
    assert all(any(word in line for line in lines) for word in [*SHORTER, *LONG, AFTER_LOSS])


def test_the_original_names_of_plots_and_tiers_link_to_those_of_the_report(clone):
    stats = "--stats results/activations/layer_statistics.json --configfile config/config.yaml"
    assert "results/activations/plots -> results/plots" in run(clone, f"python -m src.visualize_activations {stats}")
    run(clone, f"python -m src.analyze_activations_multitier {stats} --output multitier.json")
    assert (clone / "multitier.json").resolve() == (clone / "results" / "quant_config_multitier.json").resolve()
