"""Many prompts do not change planning, reruns, or the names of shards beyond 999."""

import os

from taqmlx.planning import configuration, plan
from taqmlx.planning.stages import CollectShard


def write_prompts(workflow, lines):
    prompts = workflow.folder / "prompts.txt"
    prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return prompts


def test_a_touched_prompt_file_of_megabytes_reruns_nothing(workflow):
    """Snakemake compares what is larger than its limit by date alone, and deletes what it makes again beforehand."""
    prompts = write_prompts(workflow, [f"a red circle, {i}, {'and ' * 2_000}" for i in range(150)])
    assert prompts.stat().st_size > 2**20
    workflow.configure(trajectories=3, steps=3, prompts_per_shard=3)
    done = workflow.run("trajectories")
    assert done.returncode == 0, done.stdout[-2000:]
    os.utime(prompts)
    assert workflow.list_jobs("trajectories") == []


def test_shards_beyond_999_are_planned_and_named_in_order(workflow):
    write_prompts(workflow, [f"a red circle, {i}" for i in range(1002)])
    workflow.configure(trajectories=1002, evaluation_seed=10_000)
    assert workflow.list_jobs("trajectories").count("collect_shard") == 1002
    jobs = workflow.list_jobs(
        *(str(workflow.results / f"trajectories.zarr/{name}") for name in ("999", "1000", "1001"))
    )
    assert jobs.count("collect_shard") == 3
    config = configuration.complete({"trajectories": 1002, "prompts_per_shard": 1}, configuration.load_schema())
    parameters = plan.select_stage(CollectShard, config, [""] * 1002)
    shards = plan.list_shards(parameters)
    assert shards[998:] == ["998", "999", "1000", "1001"]
    assert [int(name) for name in shards] == list(range(1002))


def test_shards_can_be_made_in_batches(workflow):
    """Snakemake looks at all jobs that are ready whenever it starts one."""
    write_prompts(workflow, [f"a red circle, {i}" for i in range(60)])
    workflow.configure(trajectories=60)
    assert workflow.list_jobs("trajectories", "--batch", "trajectories=1/3").count("collect_shard") == 20
