"""The workflow with trajectories on object storage."""

import pytest

from taqmlx.planning import plan
from tests.support.workflow_run import read_tree


@pytest.mark.slow
@pytest.mark.whole
def test_the_calibration_set_equals_that_of_a_local_store(workflow, finished, bucket):
    url = f"{bucket}/run/trajectories.zarr"
    workflow.configure(trajectories_url=url)
    done = workflow.run("calibration", "verify_trajectories")
    assert done.returncode == 0, done.stdout
    wanted = read_tree(finished[0].results / "calibration.zarr")
    assert read_tree(workflow.results / "calibration.zarr") == wanted
    store = workflow.results / "trajectories.zarr"
    assert {path.name for path in store.glob("*/*")} - {".snakemake_timestamp"} == {plan.RECEIPT}
    assert workflow.list_jobs("calibration") == []


def test_a_missing_bucket_stops_before_the_first_shard(workflow, bucket):
    workflow.configure(trajectories_url=bucket.replace("bucket-", "no-bucket-"))
    done = workflow.run("trajectories")
    assert done.returncode == 1
    assert "bucket does not exist" in done.stdout
    assert not (workflow.results / "logs/collect_shard").exists()
