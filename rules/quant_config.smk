"""The quantization config, the main deliverable.

INPUTS: activation statistics, quantized weights, and the seals of their inputs
OUTPUTS: <results>/quant_config.json and .safetensors
"""


rule write_quant_config:
    """Write the quantization of every layer."""
    input:
        params="<results>/params/write_quant_config.json",
        statistics="<results>/activations/statistics.json",
        arrays="<results>/activations/statistics.safetensors",
        weights="<results>/quantized/config.json",
        model="<results>/quantized/model.safetensors",
        blocks=list_quantized("safetensors"),
        calibration="<results>/calibration.zarr",
    output:
        config="<results>/quant_config.json",
        arrays="<results>/quant_config.safetensors",
    log:
        "<logs>/write_quant_config.log",
    benchmark:
        "<benchmarks>/write_quant_config.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("write_quant_config"),
        runtime=ask_minutes("write_quant_config"),
    params:
        quantized=subpath(input.model, parent=True),
    shell:
        "python -m workflow_scripts.quant_config.write_quant_config --params {input.params:q} --statistics {input.statistics:q}"
        " --quantized {params.quantized:q} --blocks {input.blocks:q} --calibration {input.calibration:q}"
        " --out {output.config:q} --log {log:q}"
