"""Quantized weights: distillation and packing.

INPUTS: <results>/adaround/{block}.safetensors, <results>/calibration.zarr
OUTPUTS: <results>/distilled.safetensors, its seal .json and .report.json; <results>/quantized/model.safetensors and config.json;
    <results>/mflux/transformer and its seal transformer.json
"""


rule distil:
    """Distil the whole quantized model from the velocity."""
    input:
        params="<results>/params/distil.json",
        folds=get_folds,
        calibration="<results>/calibration.zarr",
        blocks=expand("<results>/adaround/{unit}.safetensors", unit=UNITS),
        seals=expand("<results>/adaround/{unit}.json", unit=UNITS),
    output:
        # Not deleted before the job: if the blocks are the same again, this is already finished.
        weights=update("<results>/distilled.safetensors"),
        seal=update("<results>/distilled.json"),
        report=update("<results>/distilled.report.json"),
    log:
        "<logs>/distil.log",
    benchmark:
        "<benchmarks>/distil.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("distil"),
        runtime=ask_minutes("distil"),
    params:
        # Undeclared on purpose, as for the trajectories.
        scratch=subpath(output.weights, parent=True),
    shell:
        "python -m workflow_scripts.weights.distil --params {input.params:q} --calibration {input.calibration:q}"
        " --folds {input.folds:q}"
        " --blocks {input.blocks:q} --scratch {params.scratch:q}/scratch/distil"
        " --out {output.weights:q} --log {log:q}"


rule pack_weights:
    """Pack the learned codes into one checkpoint."""
    input:
        params="<results>/params/pack_weights.json",
        folds=get_folds,
        blocks=list_quantized("safetensors"),
        seals=list_quantized("json"),
        mixed=get_mixed_bits,
    output:
        model="<results>/quantized/model.safetensors",
        config="<results>/quantized/config.json",
    log:
        "<logs>/pack_weights.log",
    benchmark:
        "<benchmarks>/pack_weights.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("pack_weights"),
        runtime=ask_minutes("pack_weights"),
    params:
        folder=subpath(output.model, parent=True),
        mixed=lambda wildcards, input: name_option("--mixed", input.get("mixed")),
    shell:
        "python -m workflow_scripts.weights.pack_weights --params {input.params:q} --blocks {input.blocks:q} {params.mixed:q}"
        " --folds {input.folds:q}"
        " --out-dir {params.folder:q} --log {log:q}"


rule write_loader:
    """Write the loader for DiffusionKit beside the packed weights."""
    input:
        "<results>/quantized/config.json",
    output:
        "<results>/quantized/load_quantized.py",
    log:
        "<logs>/write_loader.log",
    shell:
        "python -m workflow_scripts.weights.write_loader --out {output:q} --log {log:q}"


rule export_mflux:
    """Write the packed transformer in the layout of mflux."""
    input:
        params="<results>/params/pack_weights.json",
        model=get_mflux_source,
        config="<results>/quantized/config.json",
    output:
        folder=directory("<results>/mflux/transformer"),
        seal="<results>/mflux/transformer.json",
    log:
        "<logs>/export_mflux.log",
    benchmark:
        "<benchmarks>/export_mflux.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("pack_weights"),
        runtime=ask_minutes("pack_weights"),
    params:
        quantized=subpath(input.model, parent=True),
    shell:
        "python -m workflow_scripts.weights.export_mflux --params {input.params:q} --quantized {params.quantized:q}"
        " --out {output.folder:q} --log {log:q}"
