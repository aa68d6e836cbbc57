"""Quantization error of every layer.

INPUTS: <results>/block_inputs.zarr
OUTPUTS: <results>/sensitivity/{block}.json and .safetensors
"""


rule measure_sensitivity:
    """Measure the quantization error of each layer of block {wildcards.block}."""
    input:
        params="<results>/params/measure_sensitivity.json",
        folds=get_folds,
        rows=get_sensitivity_rows,
    output:
        sensitivity="<results>/sensitivity/{block}.json",
        arrays="<results>/sensitivity/{block}.safetensors",
    log:
        "<logs>/measure_sensitivity/{block}.log",
    benchmark:
        "<benchmarks>/measure_sensitivity/{block}.tsv"
    priority: 1
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.sensitivity.measure_sensitivity --params {input.params:q} --block {wildcards.block}"
        " --folds {input.folds:q}"
        " --inputs {input.rows:q} --out {output.sensitivity:q} --log {log:q}"
