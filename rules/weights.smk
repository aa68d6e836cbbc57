"""Quantized weights.

INPUTS: <results>/adaround/{block}.safetensors
OUTPUTS: <results>/quantized/model.safetensors and config.json
"""


rule pack_weights:
    """Pack the blocks' codes into one checkpoint."""
    input:
        params="<results>/params/pack_weights.json",
        blocks=expand("<results>/adaround/{block}.safetensors", block=BLOCKS),
        seals=expand("<results>/adaround/{block}.json", block=BLOCKS),
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
    shell:
        "python -m workflow_scripts.pack_weights --params {input.params:q} --blocks {input.blocks:q}"
        " --out-dir {params.folder:q} --log {log:q}"
