"""Statistics of the inputs of all linear layers, over the timesteps.

INPUTS: <results>/calibration.zarr
OUTPUTS: <results>/activations/statistics.json and .safetensors, <results>/activations/ranges.md
"""


rule collect_activations:
    """Observe the layer inputs on shard {wildcards.stage_shard} of the calibration points."""
    input:
        params="<results>/params/collect_activations.json",
        folds=get_folds,
        calibration="<results>/calibration.zarr",
    output:
        statistics="<results>/activations/shards/{stage_shard}.safetensors",
        seal="<results>/activations/shards/{stage_shard}.json",
    log:
        "<logs>/collect_activations/{stage_shard}.log",
    benchmark:
        "<benchmarks>/collect_activations/{stage_shard}.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("collect_activations"),
        runtime=ask_minutes("collect_activations"),
    shell:
        "python -m workflow_scripts.activations.collect_activations --params {input.params:q} --calibration {input.calibration:q}"
        " --folds {input.folds:q}"
        " --shard {wildcards.stage_shard} --out {output.statistics:q} --log {log:q}"


rule merge_activations:
    """Merge the statistics of all shards."""
    input:
        statistics=expand(
            "<results>/activations/shards/{stage_shard}.safetensors",
            stage_shard=STATISTICS_SHARDS,
        ),
        seals=expand(
            "<results>/activations/shards/{stage_shard}.json",
            stage_shard=STATISTICS_SHARDS,
        ),
    output:
        statistics="<results>/activations/statistics.json",
        arrays="<results>/activations/statistics.safetensors",
    log:
        "<logs>/merge_activations.log",
    benchmark:
        "<benchmarks>/merge_activations.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.activations.merge_activations --shards {input.statistics:q} --out {output.statistics:q}"
        " --log {log:q}"


rule report_ranges:
    """Report which layer inputs are hard to quantize, and why."""
    input:
        statistics="<results>/activations/statistics.json",
        arrays="<results>/activations/statistics.safetensors",
    output:
        "<results>/activations/ranges.md",
    log:
        "<logs>/report_ranges.log",
    shell:
        "python -m workflow_scripts.activations.report_ranges --statistics {input.statistics:q} --out {output:q} --log {log:q}"
