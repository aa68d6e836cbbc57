"""Contribution of each part of the method: the same images from every rung of the ladder.

INPUTS: <results>/block_inputs.zarr, <results>/conditioning.safetensors, <results>/quant_config.json
OUTPUTS: <results>/weights_ladder.json and .md, and in <results>/ladder/{rung}/ a rung's blocks and final latents
"""


localrules:
    write_rung_parameters,


use rule write_block_parameters as write_rung_parameters with:
    output:
        "<results>/params/ladder/{rung}/{block}.json",
    log:
        "<logs>/write_rung_parameters/{rung}/{block}.log",
    params:
        values=get_rung_values,


use rule optimise_block as optimise_rung_block with:
    input:
        params="<results>/params/ladder/{rung}/{block}.json",
        folds=get_rung_folds,
        rows=get_rung_rows,
        before=get_rung_blocks_before,
        mixed=[],
    output:
        weights=update("<results>/ladder/{rung}/{block}.safetensors"),
        seal=update("<results>/ladder/{rung}/{block}.json"),
        report=update("<results>/ladder/{rung}/{block}.report.json"),
    log:
        "<logs>/optimise_rung_block/{rung}/{block}.log",
    benchmark:
        "<benchmarks>/optimise_rung_block/{rung}/{block}.tsv"
    params:
        scratch=subpath(output.weights, parent=True),
        mixed="",


rule sample_rung:
    """Sample the ladder's latents with rung {wildcards.rung}."""
    input:
        params="<results>/params/sample_rung.json",
        folds=get_rung_folds,
        conditioning="<results>/conditioning.safetensors",
        seal="<results>/conditioning.json",
        blocks=expand(
            "<results>/ladder/{rung}/{block}.safetensors",
            block=BLOCKS,
            allow_missing=True,
        ),
    output:
        "<results>/ladder/{rung}/latents.safetensors",
    log:
        "<logs>/sample_rung/{rung}.log",
    benchmark:
        "<benchmarks>/sample_rung/{rung}.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.ladder.sample_rung --params {input.params:q} --conditioning {input.conditioning:q}"
        " --folds {input.folds:q}"
        " --blocks {input.blocks:q} --out {output:q} --log {log:q}"


rule sample_packed:
    """Sample the ladder's latents with the packed weights and the quantization config."""
    input:
        params="<results>/params/sample_rung.json",
        conditioning="<results>/conditioning.safetensors",
        seal="<results>/conditioning.json",
        config="<results>/quant_config.json",
    output:
        "<results>/ladder/packed/latents.safetensors",
    log:
        "<logs>/sample_packed.log",
    benchmark:
        "<benchmarks>/sample_packed.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.ladder.sample_rung --params {input.params:q} --conditioning {input.conditioning:q}"
        " --quant-config {input.config:q} --out {output:q} --log {log:q}"


use rule sample_rung as sample_own with:
    input:
        params="<results>/params/sample_rung.json",
        folds=get_folds,
        conditioning="<results>/conditioning.safetensors",
        seal="<results>/conditioning.json",
        blocks=expand("<results>/adaround/{unit}.safetensors", unit=UNITS),
    output:
        f"<results>/ladder/{ladder.OWN}/latents.safetensors",
    log:
        "<logs>/sample_own.log",
    benchmark:
        "<benchmarks>/sample_own.tsv"


rule write_ladder:
    """Compare the rungs."""
    input:
        latents=expand(
            "<results>/ladder/{rung}/latents.safetensors",
            rung=[*ladder.RUNGS, ladder.OWN, ladder.PACKED],
        ),
        reports=expand(
            "<results>/ladder/{rung}/{block}.report.json",
            rung=ladder.RUNGS,
            block=BLOCKS,
        ),
        packed=expand("<results>/adaround/{block}.report.json", block=BLOCKS),
    output:
        table="<results>/weights_ladder.json",
        text="<results>/weights_ladder.md",
    log:
        "<logs>/write_ladder.log",
    params:
        results=subpath(output.table, parent=True),
    shell:
        "python -m workflow_scripts.ladder.write_ladder --ladder {params.results:q}/ladder"
        " --adaround {params.results:q}/adaround --out {output.table:q} --log {log:q}"
