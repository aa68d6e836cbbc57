"""Quantized weights.

OUTPUTS: <results>/quantized/model.safetensors and config.json
"""


rule quantize_weights:
    """Round the weights to their grids and pack them."""
    input:
        params="<results>/params/quantize_weights.json",
    output:
        model="<results>/quantized/model.safetensors",
        config="<results>/quantized/config.json",
    log:
        "<logs>/quantize_weights.log",
    benchmark:
        "<benchmarks>/quantize_weights.tsv"
    params:
        folder=subpath(output.model, parent=True),
    shell:
        "python -m workflow_scripts.quantize_weights --params {input.params:q} --out-dir {params.folder:q} --log {log:q}"
