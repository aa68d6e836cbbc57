"""Fewer activation bits where they suffice, and the statistics in the layouts of earlier programs.

INPUTS: the quantization config, the activation statistics, and the sensitivity of each block
OUTPUTS: <results>/quant_config_multitier.json and .safetensors, <results>/activations/layer_temporal_analysis.json,
layer_statistics.json and quantization_config.json
"""


rule write_multitier:
    """Choose 4, 6 or 8 bits for every layer input, by noise level."""
    input:
        params="<results>/params/write_multitier.json",
        config="<results>/quant_config.json",
        steps="<results>/quant_config.safetensors",
        model="<results>/quantized/model.safetensors",
        statistics="<results>/activations/statistics.json",
        arrays="<results>/activations/statistics.safetensors",
        sensitivity=expand("<results>/sensitivity/{block}.json", block=BLOCKS),
    output:
        config="<results>/quant_config_multitier.json",
        arrays="<results>/quant_config_multitier.safetensors",
    log:
        "<logs>/write_multitier.log",
    benchmark:
        "<benchmarks>/write_multitier.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.multitier.write_multitier --params {input.params:q} --config {input.config:q}"
        " --statistics {input.statistics:q} --sensitivity {input.sensitivity:q} --out {output.config:q} --log {log:q}"


rule export_analysis:
    """Export the activation statistics in the layouts of earlier programs."""
    input:
        statistics="<results>/activations/statistics.json",
        arrays="<results>/activations/statistics.safetensors",
    output:
        temporal="<results>/activations/layer_temporal_analysis.json",
        flat="<results>/activations/layer_statistics.json",
        advice="<results>/activations/quantization_config.json",
    log:
        "<logs>/export_analysis.log",
    benchmark:
        "<benchmarks>/export_analysis.tsv"
    shell:
        "python -m workflow_scripts.multitier.export_analysis --statistics {input.statistics:q} --temporal {output.temporal:q}"
        " --flat {output.flat:q} --advice {output.advice:q} --log {log:q}"
