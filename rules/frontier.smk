"""Quality against size: the model quantized at several sizes, compared with `nn.quantize`.

INPUTS: <results>/calibration.zarr, <results>/block_inputs.zarr, <results>/weight_costs.json
OUTPUTS: <results>/frontier.json and .md; in <results>/frontier/ images, and in {size}/ the files of each size
"""


localrules:
    write_frontier_parameters,
    write_frontier_block_parameters,


use rule write_parameters as write_frontier_parameters with:
    output:
        "<results>/params/frontier/{size}/{stage}.json",
    log:
        "<logs>/write_parameters/frontier/{size}/{stage}.log",
    params:
        values=get_size_values,


use rule write_block_parameters as write_frontier_block_parameters with:
    output:
        "<results>/params/frontier/{size}/blocks/{block}.json",
    log:
        "<logs>/write_block_parameters/frontier/{size}/{block}.log",
    params:
        values=get_size_block_values,


use rule search_bits as search_frontier_bits with:
    input:
        params="<results>/params/frontier/{size}/search_bits.json",
        costs="<results>/weight_costs.json",
    output:
        "<results>/frontier/{size}/mixed_bits.json",
    log:
        "<logs>/frontier/{size}/search_bits.log",


use rule optimise_block as optimise_frontier_block with:
    input:
        params="<results>/params/frontier/{size}/blocks/{block}.json",
        folds=get_folds,
        rows=get_size_rows,
        before=get_size_blocks_before,
        mixed="<results>/frontier/{size}/mixed_bits.json",
    output:
        weights=update("<results>/frontier/{size}/adaround/{block}.safetensors"),
        seal=update("<results>/frontier/{size}/adaround/{block}.json"),
        report=update("<results>/frontier/{size}/adaround/{block}.report.json"),
    log:
        "<logs>/frontier/{size}/optimise_block/{block}.log",
    benchmark:
        "<benchmarks>/frontier/{size}/optimise_block/{block}.tsv"


use rule round_shared as round_frontier_shared with:
    input:
        params="<results>/params/frontier/{size}/round_shared.json",
        folds=get_folds,
        calibration="<results>/calibration.zarr",
        mixed="<results>/frontier/{size}/mixed_bits.json",
    output:
        weights="<results>/frontier/{size}/adaround/shared.safetensors",
        seal="<results>/frontier/{size}/adaround/shared.json",
    log:
        "<logs>/frontier/{size}/round_shared.log",
    benchmark:
        "<benchmarks>/frontier/{size}/round_shared.tsv"


use rule distil as distil_frontier with:
    input:
        params="<results>/params/frontier/{size}/distil.json",
        folds=get_folds,
        calibration="<results>/calibration.zarr",
        blocks=expand(
            "<results>/frontier/{size}/adaround/{unit}.safetensors",
            unit=UNITS,
            allow_missing=True,
        ),
        seals=expand(
            "<results>/frontier/{size}/adaround/{unit}.json",
            unit=UNITS,
            allow_missing=True,
        ),
    output:
        weights=update("<results>/frontier/{size}/distilled.safetensors"),
        seal=update("<results>/frontier/{size}/distilled.json"),
        report=update("<results>/frontier/{size}/distilled.report.json"),
    log:
        "<logs>/frontier/{size}/distil.log",
    benchmark:
        "<benchmarks>/frontier/{size}/distil.tsv"


use rule pack_weights as pack_frontier with:
    input:
        params="<results>/params/frontier/{size}/pack_weights.json",
        folds=get_folds,
        blocks=list_size_quantized("safetensors"),
        seals=list_size_quantized("json"),
        mixed="<results>/frontier/{size}/mixed_bits.json",
    output:
        model="<results>/frontier/{size}/quantized/model.safetensors",
        config="<results>/frontier/{size}/quantized/config.json",
    log:
        "<logs>/frontier/{size}/pack_weights.log",
    benchmark:
        "<benchmarks>/frontier/{size}/pack_weights.tsv"


use rule write_quant_config as write_frontier_config with:
    input:
        params="<results>/params/write_quant_config.json",
        statistics="<results>/activations/statistics.json",
        arrays="<results>/activations/statistics.safetensors",
        weights="<results>/frontier/{size}/quantized/config.json",
        model="<results>/frontier/{size}/quantized/model.safetensors",
        blocks=list_size_quantized("safetensors"),
        calibration="<results>/calibration.zarr",
    output:
        config="<results>/frontier/{size}/quant_config.json",
        arrays="<results>/frontier/{size}/quant_config.safetensors",
    log:
        "<logs>/frontier/{size}/write_quant_config.log",
    benchmark:
        "<benchmarks>/frontier/{size}/write_quant_config.tsv"


rule draw_frontier_reference:
    """Generate the frontier's images in full precision."""
    input:
        params="<results>/params/measure_frontier.json",
        prompts="<results>/evaluation/prompts.json",
        weights=get_weights,
    output:
        "<results>/frontier/reference.safetensors",
    log:
        "<logs>/frontier/reference.log",
    benchmark:
        "<benchmarks>/frontier/reference.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.frontier.draw_frontier --params {input.params:q} --prompts {input.prompts:q}"
        " --out {output:q} --log {log:q}"


rule draw_plain:
    """Generate the frontier's images with `nn.quantize`, {wildcards.family}."""
    input:
        params="<results>/params/measure_frontier.json",
        prompts="<results>/evaluation/prompts.json",
        reference="<results>/frontier/reference.safetensors",
        weights=get_weights,
    output:
        "<results>/frontier/plain/{family}.json",
    log:
        "<logs>/frontier/plain/{family}.log",
    benchmark:
        "<benchmarks>/frontier/plain/{family}.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.frontier.draw_frontier --params {input.params:q} --prompts {input.prompts:q}"
        " --reference {input.reference:q} --family {wildcards.family} --out {output:q} --log {log:q}"


rule draw_size:
    """Generate the frontier's images at {wildcards.size} bits per weight."""
    input:
        params="<results>/params/measure_frontier.json",
        prompts="<results>/evaluation/prompts.json",
        reference="<results>/frontier/reference.safetensors",
        source=get_size_source,
        weights=get_weights,
    output:
        "<results>/frontier/learned/{size}.json",
    log:
        "<logs>/frontier/learned/{size}.log",
    benchmark:
        "<benchmarks>/frontier/learned/{size}.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.frontier.draw_frontier --params {input.params:q} --prompts {input.prompts:q}"
        " --reference {input.reference:q} --quant-config {input.source:q} --out {output:q} --log {log:q}"


rule measure_frontier:
    """Compare our sizes with `nn.quantize`."""
    input:
        plain=expand(
            "<results>/frontier/plain/{family}.json", family=plain_ways.FAMILIES
        ),
        learned=expand("<results>/frontier/learned/{size}.json", size=FRONTIER_SIZES),
    output:
        table="<results>/frontier.json",
        text="<results>/frontier.md",
    log:
        "<logs>/measure_frontier.log",
    params:
        sizes=FRONTIER_SIZES,
    shell:
        "python -m workflow_scripts.frontier.measure_frontier --plain {input.plain:q} --learned {input.learned:q}"
        " --sizes {params.sizes:q} --out {output.table:q} --log {log:q}"
