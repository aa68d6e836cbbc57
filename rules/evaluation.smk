"""What quantization did to the pictures: every variant's, compared with real ones and with full precision.

INPUTS: what the variants' layers come from: <results>/quant_config.json, <results>/quantized/, <results>/ladder/
OUTPUTS: <results>/fid.json, and in <results>/evaluation/ the pictures, their latents and features
"""


localrules:
    write_evaluation_prompts,


rule write_evaluation_prompts:
    """Choose the prompts and seeds, none of them used in calibration."""
    input:
        params="<results>/params/write_evaluation_prompts.json",
        prompts=get_evaluation_prompts,
    output:
        "<results>/evaluation/prompts.json",
    log:
        "<logs>/write_evaluation_prompts.log",
    shell:
        "python -m workflow_scripts.write_evaluation_prompts --params {input.params:q} --out {output:q} --log {log:q}"


rule draw_reference:
    """Draw real pictures to compare with."""
    input:
        params="<results>/params/draw_reference.json",
    output:
        directory("<results>/evaluation/reference"),
    log:
        "<logs>/draw_reference.log",
    benchmark:
        "<benchmarks>/draw_reference.tsv"
    shell:
        "python -m workflow_scripts.draw_reference --params {input.params:q} --out {output:q} --log {log:q}"


rule generate_images:
    """Draw shard {wildcards.part} of the pictures of {wildcards.variant}."""
    input:
        params="<results>/params/generate_images.json",
        prompts="<results>/evaluation/prompts.json",
        source=get_variant_source,
    output:
        # The pictures beside the seal are undeclared on purpose: Snakemake deletes a failed job's outputs.
        "<results>/evaluation/images/{variant}/{part}.json",
    log:
        "<logs>/generate_images/{variant}/{part}.log",
    benchmark:
        "<benchmarks>/generate_images/{variant}/{part}.tsv"
    params:
        folder=subpath(output[0], strip_suffix=".json"),
    shell:
        "python -m workflow_scripts.generate_images --params {input.params:q} --prompts {input.prompts:q}"
        " --variant {wildcards.variant} --shard {wildcards.part} --source {input.source:q}"
        " --out {params.folder:q} --log {log:q}"


rule extract_features:
    """Read the features of shard {wildcards.part} of {wildcards.variant}."""
    input:
        params="<results>/params/extract_features.json",
        pictures="<results>/evaluation/images/{variant}/{part}.json",
    output:
        "<results>/evaluation/features/{variant}/{part}.safetensors",
    log:
        "<logs>/extract_features/{variant}/{part}.log",
    benchmark:
        "<benchmarks>/extract_features/{variant}/{part}.tsv"
    shell:
        "python -m workflow_scripts.extract_features --params {input.params:q} --pictures {input.pictures:q}"
        " --shard {wildcards.part} --out {output:q} --log {log:q}"


use rule extract_features as extract_reference_features with:
    input:
        params="<results>/params/extract_features.json",
        pictures=config["reference_pictures"] or "<results>/evaluation/reference",
    output:
        "<results>/evaluation/features/real/{part}.safetensors",
    log:
        "<logs>/extract_features/real/{part}.log",
    benchmark:
        "<benchmarks>/extract_features/real/{part}.tsv"


rule measure_growth:
    """Follow the error of {wildcards.variant} along the trajectory."""
    input:
        params="<results>/params/measure_growth.json",
        prompts="<results>/evaluation/prompts.json",
        source=get_variant_source,
    output:
        "<results>/evaluation/growth/{variant}.json",
    log:
        "<logs>/measure_growth/{variant}.log",
    benchmark:
        "<benchmarks>/measure_growth/{variant}.tsv"
    shell:
        "python -m workflow_scripts.measure_growth --params {input.params:q} --prompts {input.prompts:q}"
        " --variant {wildcards.variant} --source {input.source:q} --out {output:q} --log {log:q}"


rule score:
    """Compare the variants."""
    input:
        params="<results>/params/score.json",
        prompts="<results>/evaluation/prompts.json",
        images=expand(
            "<results>/evaluation/images/{variant}/{part}.json",
            variant=DRAWN,
            part=EVALUATION_SHARDS,
        ),
        features=expand(
            "<results>/evaluation/features/{variant}/{part}.safetensors",
            variant=[*DRAWN, "real"],
            part=EVALUATION_SHARDS,
        ),
        growth=expand(
            "<results>/evaluation/growth/{variant}.json",
            variant=[name for name in config["evaluation_variants"] if name != "fp"],
        ),
    output:
        "<results>/fid.json",
    log:
        "<logs>/score.log",
    benchmark:
        "<benchmarks>/score.tsv"
    params:
        folder=subpath(input.prompts, parent=True),
    shell:
        "python -m workflow_scripts.score --params {input.params:q} --prompts {input.prompts:q}"
        " --images {params.folder:q}/images --features {params.folder:q}/features --growth {params.folder:q}/growth"
        " --out {output:q} --log {log:q}"
