"""The validated configuration, the names that follow from it, and what every job is given. No rules."""

import shlex
import sys
import time
from pathlib import Path

from taqmlx.budgeting import jobs, work
from taqmlx.planning import (
    ablation,
    block_plan,
    config_relations,
    configuration,
    guard,
    ladder,
    plain_ways,
    plan,
    sizes,
    user_files,
    variants,
)
from taqmlx.runtime import versions
from taqmlx.runtime.summary import describe_results
from taqmlx.store.errors import UserError


def stop(reason):
    """End the planning with one line."""
    sys.exit(f"error: {reason}")


def refuse_conflicts(conflicts):
    """End the planning at the first finished work that it would replace, unless that is wanted."""
    for conflict in conflicts if not config["overwrite"] else []:
        stop(
            f"{conflict}; choose another results_dir, or replace it with --config overwrite=true"
        )


try:
    config, PROMPTS = configuration.load(config)
except ValueError as error:
    stop(error)

TRAJECTORIES = plan.select_parameters("collect_shard", config, PROMPTS)
SHARDS = plan.list_shards(TRAJECTORIES)
# Where the shards lie, as a word of a command. No parameter of a rule, since it is not what they hold: a store may move.
STORE = shlex.quote(plan.place_store(config)).replace("{", "{{").replace("}", "}}")
BLOCKS = plan.list_blocks(config["model"])
UNITS = plan.list_units(config["model"])
CAPTURE_SHARDS = plan.list_parts(config["capture_shards"])
STATISTICS_SHARDS = plan.list_parts(config["statistics_shards"])
EVALUATION_SHARDS = plan.list_parts(config["evaluation_shards"])
# The configuration's own size is one of them: what it saves heads the scores and the report.
FRONTIER_SIZES = [
    f"{size:.10g}"
    for size in sorted({*config["frontier_sizes"], config["bits_per_weight"]} - {None})
]
SIZES = sizes.read_sizes(config)
JOBS = jobs.list_jobs(config, len(PROMPTS), SIZES, work.estimate_rates(config, SIZES))
# What is evaluated, each study in a folder of its own, and where its scores are.
STUDIES = {"evaluation": config, "ablation": ablation.change(config)}
SCORES = {"fid": "evaluation", "ablation": "ablation"}

RESULTS = Path(config["results_dir"])

refuse_conflicts(guard.find_conflicts(config, PROMPTS))
for other in guard.find_other_weights(config):
    stop(other)
if workflow.is_main_process:
    for line in guard.find_wrong_dates(config, time.time()):
        stop(line)
    try:
        for line in versions.find_changes(RESULTS):
            print(f"warning: {line}", file=sys.stderr)
    except UserError as error:
        stop(error)


pathvars:
    results=config["results_dir"],
    logs=f"{config['results_dir']}/logs",
    benchmarks=f"{config['results_dir']}/benchmarks",


wildcard_constraints:
    stage="|".join(plan.STAGES),
    shard=r"\d\d\d+",
    part=r"\d\d",
    block="|".join(BLOCKS),
    rung="|".join(variants.RUNGS),
    variant="|".join(variants.ALL),
    study="|".join(STUDIES),
    scores="|".join(SCORES),
    size=r"\d+(\.\d+)?",
    family="|".join(plain_ways.FAMILIES),


# Workers run with the Python that runs Snakemake, whether or not its environment is activated.
PLACES = "".join(
    f"export {name}={shlex.quote(place)}; "
    for name, place in user_files.list_places(config).items()
)
shell.prefix(
    f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"; {PLACES}'
)


# What a scheduler is asked for comes from the budget, for the rules it has. Of the resource `mlx` every job takes one
# that computes by MLX, on the GPU where there is one; a profile says how many there are.
def ask_memory(rule):
    """The MB a job of a rule asks for."""
    return lambda wildcards, attempt: jobs.ask_memory(JOBS[rule], attempt)


def ask_minutes(rule):
    """The minutes a job of a rule asks for."""
    return lambda wildcards, attempt: jobs.ask_minutes(JOBS[rule], attempt)


onstart:
    versions.record(RESULTS)


# The CPU of a cluster's node may be of another kind than the one that plans.
if workflow.remote_exec:
    versions.record(RESULTS)


onsuccess:
    print("\n".join(describe_results(Path(config["results_dir"]))), file=sys.stderr)
