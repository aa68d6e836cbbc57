"""The default workflow with profiles/slurm on a real Slurm under faults; run with `make slurm`."""

import os
import re
import signal
import subprocess
import sys
import time

PROFILE = ("--profile", "profiles/slurm")
# As in the profile, but with less patience: jobs are short here, and nobody else asks this Slurm.
SOON = ("--slurm-init-seconds-before-status-checks", "3", "--seconds-between-status-checks", "3")
PATIENCE = 1800


def wait_for(happened, what, process=None):
    """Wait for what `happened` returns until it is something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := happened():
            return found
        assert process is None or process.poll() is None, f"ended before {what}"
        time.sleep(0.2)
    raise TimeoutError(what)


def list_running(node, said, rule):
    """The numbers of the jobs of a rule that run."""
    sent = set(re.findall(rf"SLURM jobid (\d+) \(log: \S*/(?:rule|group)_{rule}\b", said))
    return sent & set(node.call("squeue", "--noheader", "--states=running", "--format=%i").stdout.split())


def list_states(node, numbers):
    """How jobs ended, all ends of those that were queued again."""
    return [record["JobState"] for record in node.read_finished() if record["JobId"] in numbers]


def assert_equal_results(copy, reference):
    found, wanted = copy.read_results(), reference.read_results()
    assert found.keys() == wanted.keys()
    assert [name for name in found if found[name] != wanted[name]] == []


def test_a_cancelled_job_and_a_dead_node_change_nothing(node, cluster, local, summarize):
    run = cluster.start("quant_config", *PROFILE, *SOON)
    shard = min(wait_for(lambda: list_running(node, cluster.read_said(), "collect_shard"), "shards", run))
    node.call("scancel", shard)
    locks = cluster.results / "scratch" / "adaround"
    wait_for(lambda: len(list(locks.glob("*.lock"))) > 1, "two blocks that are learned", run)
    when, start = time.strftime("%H:%M:%S"), time.monotonic()
    killed = node.kill()
    assert killed
    wait_for(lambda: node.read_state() == "down", "Slurm missing its node", run)
    node.restore()
    away = time.monotonic() - start
    assert run.wait(PATIENCE) == 0, cluster.read_said()[-3000:]
    assert list_states(node, {shard}) == ["CANCELLED"]
    assert "NODE_FAIL" in list_states(node, {str(number) for number in killed})
    assert_equal_results(cluster, local)
    summarize(
        cluster,
        f"job {shard} cancelled; the node killed at {when} with jobs {killed}, back after {away:.0f} s",
        f"{len(local.read_results())} files, all byte for byte those of a local run",
    )


def test_a_job_that_exceeds_its_time_resumes(node, cluster, summarize):
    (cluster.folder / "one.txt").write_text("a red circle\n")
    cluster.configure(prompts="one.txt", trajectories=4, steps=250, checkpoint_every=20)
    out_of_time = ("--set-resources", "collect_shard:runtime=1", "--retries", "12")
    run = cluster.start("trajectories", *PROFILE, *SOON, *out_of_time)
    worker = cluster.find_worker("collect_shard")
    wait_for((cluster.results / "scratch" / "000" / "checkpoint").exists, "a checkpoint", run)
    worker.suspend()  # it makes no progress until Slurm's patience, a minute at least, is over
    assert run.wait(PATIENCE) == 0, cluster.read_said()[-3000:]
    sent = set(re.findall(r"SLURM jobid (\d+) \(log: \S*rule_collect_shard", cluster.read_said()))
    states = list_states(node, sent)
    assert states.count("TIMEOUT") >= 1
    assert states.count("COMPLETED") == 1
    assert "resuming" in (cluster.results / "logs" / "collect_shard" / "000.log").read_text()
    assert cluster.run("verify_trajectories", "--cores", "1").returncode == 0
    summarize(cluster, f"one shard with a limit of one minute: {states}")


def test_jobs_that_outlive_snakemake_and_their_successors_end_with_equal_bytes(node, cluster, local, summarize):
    run = cluster.start("trajectories", *PROFILE, *SOON)
    wait_for(lambda: len(list_running(node, cluster.read_said(), "collect_shard")) > 1, "shards", run)
    run.kill()
    run.wait()
    first = set(re.findall(r"SLURM jobid (\d+)", cluster.read_said()))
    assert list_running(node, cluster.read_said(), "collect_shard")
    refused = cluster.run("trajectories", *PROFILE)
    assert refused.returncode != 0
    assert "--unlock" in refused.stdout
    assert cluster.run("--unlock").returncode == 0
    again = cluster.start("trajectories", *PROFILE, *SOON)
    assert again.wait(PATIENCE) == 0, cluster.read_said()[-3000:]
    wait_for(lambda: not node.call("squeue", "--noheader").stdout.strip(), "the end of the first jobs")
    found, wanted = cluster.read_results(), local.read_results()
    shards = [name for name in wanted if name.startswith("trajectories.zarr")]
    assert [name for name in shards if found.get(name) != wanted[name]] == []
    sent = set(re.findall(r"SLURM jobid (\d+)", cluster.read_said()))
    summarize(cluster, f"Snakemake killed with {len(first)} jobs sent; {len(sent - first)} more sent after it")


def test_an_interrupted_snakemake_cancels_its_jobs(node, cluster):
    run = cluster.start("trajectories", *PROFILE, *SOON)
    wait_for(lambda: list_running(node, cluster.read_said(), "collect_shard"), "shards", run)
    os.killpg(run.pid, signal.SIGINT)
    run.wait(60)
    wait_for(lambda: not node.call("squeue", "--noheader").stdout.strip(), "the end of the jobs")
    assert cluster.run("-n", "trajectories", *PROFILE).returncode == 0


def test_a_job_that_runs_the_model_requests_a_gpu_if_the_profile_says_so(node, cluster):
    profile = cluster.folder / "profiles" / "slurm" / "config.yaml"
    text = profile.read_text()
    assert "gpus: 0" in text
    profile.write_text(text.replace("gpus: 0", "gpus: 1"))
    run = cluster.start("results/trajectories.zarr/000", "results/trajectories.zarr/001", *PROFILE, *SOON)
    assert run.wait(PATIENCE) == 0, cluster.read_said()[-3000:]
    sent = set(re.findall(r"SLURM jobid (\d+) \(log: \S*rule_collect_shard", cluster.read_said()))
    records = sorted((r for r in node.read_finished() if r["JobId"] in sent), key=lambda r: r["StartTime"])
    assert len(records) == 2
    shown = [node.call("scontrol", "show", "job", number).stdout for number in sent]
    assert all("TresPerJob=gres:gpu:1" in text for text in shown)
    assert records[0]["EndTime"] <= records[1]["StartTime"]


def test_a_job_requests_the_resources_of_the_budget(node, cluster):
    shown = cluster.run("-n", "quant_config", *PROFILE).stdout
    asked = re.search(r"rule optimise_block:.*?mem_mb=(\d+).*?\n", shown, re.S)
    assert asked
    large = subprocess.run(
        [sys.executable, *cluster.command("-n", "quant_config", *PROFILE)[:-1], "config/sd3-medium.yaml"],
        cwd=cluster.folder,
        env=node.environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    wide = re.search(r"rule optimise_block:.*?mem_mb=(\d+).*?\n", large.stdout, re.S)
    assert wide
    assert int(wide[1]) > 20 * int(asked[1])
