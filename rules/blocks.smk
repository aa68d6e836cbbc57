"""Bits of every layer, and one job per block: capture of its inputs, and its quantization.

INPUTS: <results>/calibration.zarr
OUTPUTS: <results>/weight_costs.json, <results>/mixed_bits.json; <results>/adaround/{block}.safetensors, its seal {block}.json and {block}.report.json;
<results>/adaround/shared.safetensors, the layers outside the blocks
"""


localrules:
    write_block_parameters,


rule capture_blocks:
    """Capture the inputs of all blocks on shard {wildcards.stage_shard} of the capture points."""
    input:
        params="<results>/params/capture_blocks.json",
        calibration="<results>/calibration.zarr",
    output:
        temp(directory("<results>/block_inputs.zarr/{stage_shard}")),
    log:
        "<logs>/capture_blocks/{stage_shard}.log",
    benchmark:
        "<benchmarks>/capture_blocks/{stage_shard}.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("capture_blocks"),
        runtime=ask_minutes("capture_blocks"),
    params:
        # Undeclared on purpose, as for the trajectories.
        scratch=subpath(input.calibration, parent=True),
    shell:
        "python -m workflow_scripts.blocks.capture_blocks --params {input.params:q} --calibration {input.calibration:q}"
        " --shard {wildcards.stage_shard} --scratch {params.scratch:q}/scratch/blocks/{wildcards.stage_shard} --out {output:q}"
        " --log {log:q}"


rule capture_group:
    """Capture the inputs of block group {wildcards.group} on shard {wildcards.stage_shard} for {wildcards.reader}."""
    input:
        params="<results>/params/capture_blocks.json",
        calibration="<results>/calibration.zarr",
        before=get_group_before,
    output:
        temp(directory("<results>/block_inputs.zarr/{reader}/{group}/{stage_shard}")),
    log:
        "<logs>/capture_group/{reader}/{group}/{stage_shard}.log",
    benchmark:
        "<benchmarks>/capture_group/{reader}/{group}/{stage_shard}.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("capture_blocks"),
        runtime=ask_minutes("capture_blocks"),
    params:
        scratch=subpath(input.calibration, parent=True),
        blocks=lambda wildcards: GROUPS[int(wildcards.group)],
    shell:
        "python -m workflow_scripts.blocks.capture_blocks --params {input.params:q} --calibration {input.calibration:q}"
        " --shard {wildcards.stage_shard} --blocks {params.blocks:q}"
        " --scratch {params.scratch:q}/scratch/blocks/{wildcards.reader}/{wildcards.group}/{wildcards.stage_shard}"
        " --out {output:q} --log {log:q}"


rule measure_costs:
    """Estimate the error from rounding each layer's weight, for every width and group size."""
    input:
        params="<results>/params/measure_costs.json",
        folds=get_folds,
        calibration="<results>/calibration.zarr",
    output:
        "<results>/weight_costs.json",
    log:
        "<logs>/measure_costs.log",
    benchmark:
        "<benchmarks>/measure_costs.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("measure_costs"),
        runtime=ask_minutes("measure_costs"),
    shell:
        "python -m workflow_scripts.blocks.measure_costs --params {input.params:q} --calibration {input.calibration:q}"
        " --folds {input.folds:q}"
        " --out {output:q} --log {log:q}"


rule search_bits:
    """Choose the bits of every layer within the size budget."""
    input:
        params="<results>/params/search_bits.json",
        costs="<results>/weight_costs.json",
    output:
        "<results>/mixed_bits.json",
    log:
        "<logs>/search_bits.log",
    shell:
        "python -m workflow_scripts.blocks.search_bits --params {input.params:q} --costs {input.costs:q} --out {output:q}"
        " --log {log:q}"


rule write_block_parameters:
    """Write the parameters of block {wildcards.block}."""
    output:
        "<results>/params/optimise_block/{block}.json",
    log:
        "<logs>/write_block_parameters/{block}.log",
    params:
        values=get_block_values,
    shell:
        "python -m workflow_scripts.prepare.write_block_parameters --block {wildcards.block} --values {params.values:q}"
        " --out {output:q} --log {log:q}"


rule optimise_block:
    """Quantize block {wildcards.block}."""
    input:
        params="<results>/params/optimise_block/{block}.json",
        folds=get_folds,
        rows=get_rows,
        before=get_blocks_before,
        mixed=get_mixed_bits,
    output:
        # Not deleted before the job: if the rows were only recaptured for another block, this one is already finished.
        weights=update("<results>/adaround/{block}.safetensors"),
        seal=update("<results>/adaround/{block}.json"),
        report=update("<results>/adaround/{block}.report.json"),
    log:
        "<logs>/optimise_block/{block}.log",
    benchmark:
        "<benchmarks>/optimise_block/{block}.tsv"
    # Rows are read, and then deleted, before others are captured.
    priority: 1
    resources:
        mlx=1,
        mem_mb=ask_memory("optimise_block"),
        runtime=ask_minutes("optimise_block"),
    params:
        scratch=subpath(output.weights, ancestor=2),
        mixed=lambda wildcards, input: name_option("--mixed", input.get("mixed")),
    shell:
        "python -m workflow_scripts.blocks.optimise_block --params {input.params:q} --inputs {input.rows:q}"
        " --folds {input.folds:q}"
        " --before {input.before:q} {params.mixed:q} --scratch {params.scratch:q}/scratch/adaround/{wildcards.block}"
        " --out {output.weights:q} --replace --log {log:q}"


rule round_shared:
    """Quantize the layers outside the blocks."""
    input:
        params="<results>/params/round_shared.json",
        folds=get_folds,
        calibration="<results>/calibration.zarr",
        mixed=get_mixed_bits,
    output:
        weights="<results>/adaround/shared.safetensors",
        seal="<results>/adaround/shared.json",
    log:
        "<logs>/round_shared.log",
    benchmark:
        "<benchmarks>/round_shared.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("round_shared"),
        runtime=ask_minutes("round_shared"),
    params:
        mixed=lambda wildcards, input: name_option("--mixed", input.get("mixed")),
    shell:
        "python -m workflow_scripts.blocks.round_shared --params {input.params:q} --calibration {input.calibration:q}"
        " --folds {input.folds:q}"
        " {params.mixed:q} --out {output.weights:q} --log {log:q}"
