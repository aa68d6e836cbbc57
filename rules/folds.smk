"""Folds: exact transforms of layer inputs that the weights take up before they are quantized.

INPUTS: <results>/calibration.zarr
OUTPUTS: <results>/folds.safetensors, and <results>/ladder/{rung}/folds.safetensors
"""


localrules:
    write_rung_stage_parameters,


rule fold_model:
    """Search the folds of the model."""
    input:
        params="<results>/params/fold_model.json",
        calibration="<results>/calibration.zarr",
    output:
        "<results>/folds.safetensors",
    log:
        "<logs>/fold_model.log",
    benchmark:
        "<benchmarks>/fold_model.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("fold_model"),
        runtime=ask_minutes("fold_model"),
    params:
        # Undeclared on purpose, as for the trajectories.
        scratch=subpath(output[0], parent=True),
    shell:
        "python -m workflow_scripts.folds.fold_model --params {input.params:q} --calibration {input.calibration:q}"
        " --scratch {params.scratch:q}/scratch/fold_model --out {output:q} --log {log:q}"


use rule write_parameters as write_rung_stage_parameters with:
    output:
        "<results>/params/ladder/{rung}/{stage}.json",
    log:
        "<logs>/write_rung_stage_parameters/{rung}/{stage}.log",
    params:
        values=get_rung_stage_values,


use rule fold_model as fold_rung with:
    input:
        params="<results>/params/ladder/{rung}/fold_model.json",
        calibration="<results>/calibration.zarr",
    output:
        "<results>/ladder/{rung}/folds.safetensors",
    log:
        "<logs>/fold_rung/{rung}.log",
    benchmark:
        "<benchmarks>/fold_rung/{rung}.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("fold_model"),
        runtime=ask_fold_minutes,
