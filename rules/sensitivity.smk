"""What rounding costs every layer, and the bits that cost least within a size.

INPUTS: <results>/block_inputs.zarr, <results>/conditioning.safetensors
OUTPUTS: <results>/sensitivity/{block}.json and .safetensors, <results>/mixed_bits.json
"""


rule measure_sensitivity:
    """Measure what rounding costs each layer of block {wildcards.block}."""
    input:
        params="<results>/params/measure_sensitivity.json",
        rows=expand("<results>/block_inputs.zarr/{part}", part=CAPTURE_SHARDS),
    output:
        sensitivity="<results>/sensitivity/{block}.json",
        arrays="<results>/sensitivity/{block}.safetensors",
    log:
        "<logs>/measure_sensitivity/{block}.log",
    benchmark:
        "<benchmarks>/measure_sensitivity/{block}.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.measure_sensitivity --params {input.params:q} --block {wildcards.block}"
        " --inputs {input.rows:q} --out {output.sensitivity:q} --log {log:q}"


rule search_bits:
    """Search the layers' bits within a size, and measure them against uniform ones."""
    input:
        params="<results>/params/search_bits.json",
        sensitivity=expand("<results>/sensitivity/{block}.json", block=BLOCKS),
        conditioning="<results>/conditioning.safetensors",
        seal="<results>/conditioning.json",
    output:
        "<results>/mixed_bits.json",
    log:
        "<logs>/search_bits.log",
    benchmark:
        "<benchmarks>/search_bits.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.search_bits --params {input.params:q} --sensitivity {input.sensitivity:q}"
        " --conditioning {input.conditioning:q} --out {output:q} --log {log:q}"
