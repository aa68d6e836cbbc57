"""The calibration set: selected steps of all trajectories, shuffled.

INPUTS: <results>/trajectories.zarr/{shard}, <results>/conditioning.safetensors
OUTPUTS: <results>/calibration.zarr, <results>/DiT_cali_data.npz
"""


rule gather_calibration:
    """Verify every shard and gather the calibration points."""
    input:
        params="<results>/params/gather_calibration.json",
        conditioning="<results>/conditioning.safetensors",
        seal="<results>/conditioning.json",
        store="<results>/trajectories.zarr/zarr.json",
        shards=expand("<results>/trajectories.zarr/{shard}", shard=SHARDS),
    output:
        directory("<results>/calibration.zarr"),
    log:
        "<logs>/gather_calibration.log",
    benchmark:
        "<benchmarks>/gather_calibration.tsv"
    resources:
        mem_mb=ask_memory("gather_calibration"),
        runtime=ask_minutes("gather_calibration"),
    shell:
        "python -m workflow_scripts.calibration.gather_calibration --params {input.params:q}"
        " --conditioning {input.conditioning:q}"
        f" --trajectories {STORE}"
        " --out {output:q} --log {log:q}"


rule export_npz:
    """Export the calibration set in the original flat format."""
    input:
        "<results>/calibration.zarr",
    output:
        "<results>/DiT_cali_data.npz",
    log:
        "<logs>/export_npz.log",
    shell:
        "python -m workflow_scripts.calibration.export_npz --calibration {input:q} --out {output:q} --log {log:q}"
