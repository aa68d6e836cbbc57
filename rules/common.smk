"""The validated configuration, the names that follow from it, and the input functions. No rules."""

import shlex
import sys
from pathlib import Path

from workflow_scripts import configuration, plan
from workflow_scripts.summary import describe_results


def stop(reason):
    """End the planning with one line."""
    sys.exit(f"error: {reason}")


try:
    config, PROMPTS = configuration.load(config)
except ValueError as error:
    stop(error)

TRAJECTORIES = plan.select_parameters("collect_shard", config, PROMPTS)
SHARDS = plan.list_shards(TRAJECTORIES)
STATISTICS_SHARDS = plan.list_statistics_shards(config)

if not config["overwrite"]:
    for conflict in plan.find_conflicts(Path(config["results_dir"]), TRAJECTORIES):
        stop(
            f"{conflict}; choose another results_dir, or replace it with --config overwrite=true"
        )


pathvars:
    results=config["results_dir"],
    logs=f"{config['results_dir']}/logs",
    benchmarks=f"{config['results_dir']}/benchmarks",


wildcard_constraints:
    stage="|".join(plan.STAGES),
    shard=r"\d\d\d+",
    part=r"\d\d",


# Workers run with the Python that runs Snakemake, whether or not its environment is activated.
shell.prefix(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"; ')


def get_stage_values(wildcards):
    """The configuration values a stage reads."""
    return plan.encode_values(wildcards.stage, config)


def get_prompt_file(wildcards):
    """The prompt file, for the stages that read it."""
    return config["prompts"] if wildcards.stage in plan.READS_PROMPTS else []


onsuccess:
    print("\n".join(describe_results(Path(config["results_dir"]))), file=sys.stderr)
