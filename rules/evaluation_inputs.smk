"""Input functions of the evaluation, plots and report."""

import json


def get_variant_source(wildcards):
    """The files with the layers of a variant."""
    return variants.list_sources(wildcards.variant, config["results_dir"], BLOCKS)


def get_evaluation_prompts(wildcards):
    """The file of evaluation prompts, if configured."""
    return config["evaluation_prompts"] or []


def list_compared(wildcards):
    """A variant and full precision."""
    return list(dict.fromkeys([wildcards.variant, variants.FULL_PRECISION]))


def get_compared_images(wildcards):
    """Seals of the images compared for a variant."""
    folder = f"{config['results_dir']}/{wildcards.study}/images"
    return [
        f"{folder}/{name}/{stage_shard}.json"
        for name in list_compared(wildcards)
        for stage_shard in EVALUATION_SHARDS
    ]


def get_compared_features(wildcards):
    """Features compared for a variant, including those of real images."""
    folder = f"{config['results_dir']}/{wildcards.study}/features"
    names = [*list_compared(wildcards), "real"]
    return [
        f"{folder}/{name}/{stage_shard}.safetensors"
        for name in names
        for stage_shard in EVALUATION_SHARDS
    ]


def get_score_files(wildcards):
    """Input files of a study's scores."""
    study = SCORES[wildcards.scores]
    folder = f"{config['results_dir']}/{study}"
    names = STUDIES[study]["evaluation_variants"]
    return {
        "params": f"{config['results_dir']}/params/{study}/score.json",
        "prompts": f"{folder}/prompts.json",
        "real": expand(
            f"{folder}/features/real/{{stage_shard}}.safetensors",
            stage_shard=EVALUATION_SHARDS,
        ),
        "frontier": list_frontier(study, names),
        "compared": expand(
            f"{folder}/compared/{{variant}}.json",
            variant=[*names, *variants.NOISE_FLOOR],
        ),
        "sizes": expand(f"{folder}/sizes/{{variant}}.json", variant=names),
        "growth": expand(
            f"{folder}/growth/{{variant}}.json",
            variant=[name for name in names if name != variants.FULL_PRECISION],
        ),
    }


def list_frontier(study, names):
    """The frontier file, if a size is configured and the evaluation has quantized variants."""
    is_sized = study == "evaluation" and config["bits_per_weight"] is not None
    is_quantized = any(variants.VARIANTS[name].source != "none" for name in names)
    return (
        [f"{config['results_dir']}/frontier.json"] if is_sized and is_quantized else []
    )


def show_plot(name, category, caption=None):
    """The PNG file of a plot, with its caption in Snakemake's report."""
    place, words = f"<results>/plots/{name}.png", f"../report/{caption or name}.rst"
    labels = {"figure": name.replace("_", " ")}
    return report(place, caption=words, category=category, labels=labels)


def get_report_values(wildcards):
    """The configuration as JSON, without the results' location and run options."""
    own = ("results_dir", "trajectories_url", "capture_groups", "overwrite")
    return json.dumps(
        {key: value for key, value in config.items() if key not in own},
        ensure_ascii=False,
    )
