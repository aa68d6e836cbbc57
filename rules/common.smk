"""Validated configuration, the names derived from it, and the environment and resources of jobs. No rules."""

import shlex
import sys
import time
from pathlib import Path

from taqmlx.budgeting import jobs, work
from taqmlx.planning import (
    ablation,
    block_plan,
    capture_groups,
    config_relations,
    configuration,
    guard,
    ladder,
    local_paths,
    plain_ways,
    plan,
    sizes,
    stage_demands,
    stale_parameters,
    variants,
)
from taqmlx.planning.stages import CollectShard
from taqmlx.runtime import versions
from taqmlx.runtime.summary import describe_results
from taqmlx.store.errors import UserError


def stop(reason):
    """Abort planning with a one-line error."""
    sys.exit(f"error: {reason}")


def reject_conflicts(conflicts):
    """Abort planning at the first finished result that would be replaced, unless `overwrite` is set."""
    for conflict in conflicts if not config["overwrite"] else []:
        stop(
            f"{conflict}; choose another results_dir, or replace it with --config overwrite=true"
        )


try:
    config, PROMPTS = configuration.load(config)
except ValueError as error:
    stop(error)

SHARDS = plan.list_shards(plan.select_stage(CollectShard, config, PROMPTS))
# Location of the shards, quoted for the shell. Not a rule parameter, because the store may move without a rerun.
STORE = shlex.quote(plan.place_store(config)).replace("{", "{{").replace("}", "}}")
BLOCKS = plan.list_block_names(config["model"])
UNITS = plan.list_units(config["model"])
GROUPS = capture_groups.list_groups(config)
STATISTICS_SHARDS = plan.list_stage_shards(config["statistics_shards"])
EVALUATION_SHARDS = plan.list_stage_shards(config["evaluation_shards"])
# Includes the configured size: the bits it saves head the scores and the report.
FRONTIER_SIZES = [
    f"{size:.10g}"
    for size in sorted({*config["frontier_sizes"], config["bits_per_weight"]} - {None})
]
SIZES = sizes.read_sizes(config)
JOBS = jobs.list_jobs(config, len(PROMPTS), SIZES, work.estimate_rates(config, SIZES))
# Evaluated studies, each in its own folder, and the score files.
STUDIES = {"evaluation": config, "ablation": ablation.change(config)}
SCORES = {"fid": "evaluation", "ablation": "ablation"}

RESULTS = Path(config["results_dir"])

# Snakemake sees a changed value by its record of the last run, which copied results lack. Jobs that plan need not look.
STALE_PARAMETERS = (
    {str(path) for path in stale_parameters.find_stale(RESULTS, config, PROMPTS)}
    if workflow.is_main_process
    else set()
)
reject_conflicts(guard.find_conflicts(config, PROMPTS))
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
    stage_shard=r"\d\d",
    block="|".join(BLOCKS),
    rung="|".join(variants.RUNGS),
    variant="|".join(variants.ALL),
    group=r"\d\d",
    reader=f"adaround|sensitivity|ladder/({'|'.join(variants.RUNGS)})|frontier/\\d+(\\.\\d+)?/adaround",
    study="|".join(STUDIES),
    scores="|".join(SCORES),
    size=r"\d+(\.\d+)?",
    family="|".join(plain_ways.FAMILIES),


# Workers use the Python that runs Snakemake, whether or not its environment is activated.
LOCAL_PATHS = "".join(
    f"export {name}={shlex.quote(place)}; "
    for name, place in local_paths.list_local_paths(config).items()
)
shell.prefix(
    f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"; {LOCAL_PATHS}'
)


# Memory and time come from the budget, for the rules it covers. Jobs that compute with MLX (on the GPU if there is one)
# take one unit of the resource `mlx`; a profile sets how many there are.
def ask_memory(rule):
    """Input function: memory in MB requested by a job of `rule`."""
    return lambda wildcards, attempt: jobs.ask_memory(JOBS[rule], attempt)


def ask_minutes(rule):
    """Input function: minutes requested by a job of `rule`."""
    return lambda wildcards, attempt: jobs.ask_minutes(JOBS[rule], attempt)


onstart:
    versions.record(RESULTS)


# The CPU of a cluster node may differ from that of the machine that plans.
if workflow.remote_exec:
    versions.record(RESULTS)


onsuccess:
    print("\n".join(describe_results(Path(config["results_dir"]))), file=sys.stderr)
