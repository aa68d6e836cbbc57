"""Image quality of every variant, compared with real images and with full precision.

There are two studies, each in its own folder: the evaluation of the configured variants, and the ablation of the paper.

INPUTS: the files with the variants' layers: <results>/quant_config.json, <results>/quantized/, <results>/ladder/; and
    <results>/frontier.json
OUTPUTS: <results>/fid.json, <results>/ablation.json and .md, and in <results>/{study}/ images, latents and features
"""


localrules:
    write_study_parameters,
    write_evaluation_prompts,


use rule write_parameters as write_study_parameters with:
    output:
        "<results>/params/{study}/{stage}.json",
    log:
        "<logs>/write_parameters/{study}/{stage}.log",
    params:
        values=get_study_values,


rule write_evaluation_prompts:
    """Choose the prompts and seeds of the {wildcards.study}, none of them used in calibration."""
    input:
        params="<results>/params/{study}/write_evaluation_prompts.json",
        prompts=get_evaluation_prompts,
    output:
        "<results>/{study}/prompts.json",
    log:
        "<logs>/write_evaluation_prompts/{study}.log",
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.evaluation.write_evaluation_prompts --params {input.params:q} --out {output:q} --log {log:q}"


rule draw_reference:
    """Generate the real images of the {wildcards.study}."""
    input:
        params="<results>/params/{study}/draw_reference.json",
    output:
        pictures=directory("<results>/{study}/reference"),
        seal="<results>/{study}/reference.json",
    log:
        "<logs>/draw_reference/{study}.log",
    benchmark:
        "<benchmarks>/draw_reference/{study}.tsv"
    shell:
        "python -m workflow_scripts.evaluation.draw_reference --params {input.params:q} --out {output.seal:q} --log {log:q}"


rule generate_images:
    """Generate shard {wildcards.stage_shard} of the images of {wildcards.variant}."""
    input:
        params="<results>/params/{study}/generate_images.json",
        folds=get_variant_folds,
        prompts="<results>/{study}/prompts.json",
        source=get_variant_source,
        weights=get_weights,
    output:
        # The images beside the seal are undeclared on purpose: Snakemake deletes the outputs of a failed job.
        "<results>/{study}/images/{variant}/{stage_shard}.json",
    log:
        "<logs>/generate_images/{study}/{variant}/{stage_shard}.log",
    benchmark:
        "<benchmarks>/generate_images/{study}/{variant}/{stage_shard}.tsv"
    resources:
        mlx=1,
    params:
        folder=subpath(output[0], strip_suffix=".json"),
    shell:
        "python -m workflow_scripts.evaluation.generate_images --params {input.params:q} --prompts {input.prompts:q}"
        " --folds {input.folds:q}"
        " --variant {wildcards.variant} --shard {wildcards.stage_shard} --source {input.source:q}"
        " --out {params.folder:q} --log {log:q}"


rule extract_features:
    """Extract the features of shard {wildcards.stage_shard} of {wildcards.variant}."""
    input:
        params="<results>/params/{study}/extract_features.json",
        pictures="<results>/{study}/images/{variant}/{stage_shard}.json",
    output:
        "<results>/{study}/features/{variant}/{stage_shard}.safetensors",
    log:
        "<logs>/extract_features/{study}/{variant}/{stage_shard}.log",
    benchmark:
        "<benchmarks>/extract_features/{study}/{variant}/{stage_shard}.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.evaluation.extract_features --params {input.params:q} --pictures {input.pictures:q}"
        " --shard {wildcards.stage_shard} --out {output:q} --log {log:q}"


use rule extract_features as extract_reference_features with:
    input:
        params="<results>/params/{study}/extract_features.json",
        pictures=config["reference_pictures"] or "<results>/{study}/reference.json",
    output:
        "<results>/{study}/features/real/{stage_shard}.safetensors",
    log:
        "<logs>/extract_features/{study}/real/{stage_shard}.log",
    benchmark:
        "<benchmarks>/extract_features/{study}/real/{stage_shard}.tsv"


rule compare_variant:
    """Compare the images of {wildcards.variant} with real images and with full precision."""
    input:
        params="<results>/params/{study}/compare_variant.json",
        prompts="<results>/{study}/prompts.json",
        images=get_compared_images,
        features=get_compared_features,
    output:
        "<results>/{study}/compared/{variant}.json",
    log:
        "<logs>/compare_variant/{study}/{variant}.log",
    benchmark:
        "<benchmarks>/compare_variant/{study}/{variant}.tsv"
    resources:
        mlx=1,
    params:
        folder=subpath(input.prompts, parent=True),
    shell:
        "python -m workflow_scripts.evaluation.compare_variant --params {input.params:q} --prompts {input.prompts:q}"
        " --variant {wildcards.variant} --images {params.folder:q}/images --features {params.folder:q}/features"
        " --out {output:q} --log {log:q}"


rule measure_growth:
    """Measure the error growth of {wildcards.variant} along the trajectory."""
    input:
        params="<results>/params/{study}/measure_growth.json",
        folds=get_variant_folds,
        prompts="<results>/{study}/prompts.json",
        source=get_variant_source,
        weights=get_weights,
    output:
        "<results>/{study}/growth/{variant}.json",
    log:
        "<logs>/measure_growth/{study}/{variant}.log",
    benchmark:
        "<benchmarks>/measure_growth/{study}/{variant}.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.evaluation.measure_growth --params {input.params:q} --prompts {input.prompts:q}"
        " --folds {input.folds:q}"
        " --variant {wildcards.variant} --source {input.source:q} --out {output:q} --log {log:q}"


rule measure_size:
    """Measure the size of the weights of {wildcards.variant}."""
    input:
        params="<results>/params/{study}/measure_size.json",
        source=get_variant_source,
        weights=get_weights,
    output:
        "<results>/{study}/sizes/{variant}.json",
    log:
        "<logs>/measure_size/{study}/{variant}.log",
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.evaluation.measure_size --params {input.params:q} --variant {wildcards.variant}"
        " --source {input.source:q} --out {output:q} --log {log:q}"


rule score:
    """Collect the metrics of all variants."""
    input:
        unpack(get_score_files),
    output:
        "<results>/{scores}.json",
    log:
        "<logs>/score/{scores}.log",
    params:
        folder=subpath(input.prompts, parent=True),
        frontier=lambda wildcards, input: name_option(
            "--frontier", input.get("frontier")
        ),
    shell:
        "python -m workflow_scripts.evaluation.score --params {input.params:q} --prompts {input.prompts:q}"
        " --folder {params.folder:q} {params.frontier:q} --out {output:q} --log {log:q}"


rule tabulate_ablation:
    """Write the ablation beside the paper's results."""
    input:
        "<results>/ablation.json",
    output:
        "<results>/ablation.md",
    log:
        "<logs>/tabulate_ablation.log",
    shell:
        "python -m workflow_scripts.evaluation.tabulate_ablation --scores {input:q} --out {output:q} --log {log:q}"
