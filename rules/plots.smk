"""Plots of the results.

INPUTS: <results>/frontier.json, <results>/activations/statistics.json, <results>/folds.safetensors,
    <results>/sensitivity/, <results>/adaround/, <results>/fid.json and <results>/evaluation/images/
OUTPUTS: <results>/plots/*.png and *.svg
"""

FRONTIER_PLOTS = ["frontier"]
ACTIVATION_PLOTS = [
    "most_variable_layers",
    "largest_layers",
    "image_fc1",
    "text_mlp",
    "fc2_shift",
    "heatmap_absmax",
    "heatmap_variability",
    "heatmap_negative_share",
    "channel_ranges",
]
SNAPSHOTS = [f"absmax_step_{step:03d}" for step in config["snapshot_steps"]]
FOLD_PLOTS = ["fold_ranges", "fold_spread"]
BLOCK_PLOTS = ["distributions", "adaround_convergence", "block_errors", "layer_errors"]
EVALUATION_PLOTS = ["error_growth", "size_quality"]
PICTURE_PLOTS = ["picture_grid"]
ABLATION_PLOTS = [f"ablation_{name}" for name in EVALUATION_PLOTS]
PLOTS = [
    *FRONTIER_PLOTS,
    *SNAPSHOTS,
    *ACTIVATION_PLOTS,
    *(FOLD_PLOTS if config["folds"] else []),
    *BLOCK_PLOTS,
    *EVALUATION_PLOTS,
    *PICTURE_PLOTS,
]


rule plot_frontier:
    """Plot quality against size."""
    input:
        "<results>/frontier.json",
    output:
        [show_plot(name, "Frontier") for name in FRONTIER_PLOTS],
        vectors=expand("<results>/plots/{name}.svg", name=FRONTIER_PLOTS),
    log:
        "<logs>/plot_frontier.log",
    benchmark:
        "<benchmarks>/plot_frontier.tsv"
    params:
        folder=subpath(output[0], parent=True),
        size=name_option("--size", config["bits_per_weight"]),
    shell:
        "python -m workflow_scripts.plots.plot_frontier --frontier {input:q} {params.size:q}"
        " --out {params.folder:q} --log {log:q}"


rule plot_activations:
    """Plot the layer inputs."""
    input:
        params="<results>/params/plot_activations.json",
        statistics="<results>/activations/statistics.json",
        arrays="<results>/activations/statistics.safetensors",
    output:
        [show_plot(name, "Activations", "absmax_step") for name in SNAPSHOTS],
        [show_plot(name, "Activations") for name in ACTIVATION_PLOTS],
        vectors=expand(
            "<results>/plots/{name}.svg", name=[*SNAPSHOTS, *ACTIVATION_PLOTS]
        ),
    log:
        "<logs>/plot_activations.log",
    benchmark:
        "<benchmarks>/plot_activations.tsv"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m workflow_scripts.plots.plot_activations --params {input.params:q} --statistics {input.statistics:q}"
        " --out {params.folder:q} --log {log:q}"


rule plot_folds:
    """Plot the channel ranges of layer inputs before and after their folds."""
    input:
        params="<results>/params/fold_model.json",
        folds="<results>/folds.safetensors",
    output:
        [show_plot(name, "Folds") for name in FOLD_PLOTS],
        vectors=expand("<results>/plots/{name}.svg", name=FOLD_PLOTS),
    log:
        "<logs>/plot_folds.log",
    benchmark:
        "<benchmarks>/plot_folds.tsv"
    resources:
        mlx=1,
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m workflow_scripts.plots.plot_folds --params {input.params:q} --folds {input.folds:q}"
        " --out {params.folder:q} --log {log:q}"


rule plot_blocks:
    """Plot the block quantization results."""
    input:
        params=expand("<results>/params/optimise_block/{block}.json", block=BLOCKS),
        sensitivity=expand("<results>/sensitivity/{block}.json", block=BLOCKS),
        arrays=expand("<results>/sensitivity/{block}.safetensors", block=BLOCKS),
        reports=expand("<results>/adaround/{block}.report.json", block=BLOCKS),
    output:
        [show_plot(name, "Blocks") for name in BLOCK_PLOTS],
        vectors=expand("<results>/plots/{name}.svg", name=BLOCK_PLOTS),
    log:
        "<logs>/plot_blocks.log",
    benchmark:
        "<benchmarks>/plot_blocks.tsv"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m workflow_scripts.plots.plot_blocks --params {input.params:q} --sensitivity {input.sensitivity:q}"
        " --reports {input.reports:q} --out {params.folder:q} --log {log:q}"


rule plot_evaluation:
    """Plot the image quality of the variants."""
    input:
        "<results>/fid.json",
    output:
        [show_plot(name, "Evaluation") for name in EVALUATION_PLOTS],
        vectors=expand("<results>/plots/{name}.svg", name=EVALUATION_PLOTS),
    log:
        "<logs>/plot_evaluation.log",
    benchmark:
        "<benchmarks>/plot_evaluation.tsv"
    params:
        folder=subpath(output[0], parent=True),
        prefix="",
    shell:
        "python -m workflow_scripts.plots.plot_evaluation --scores {input:q} --prefix={params.prefix:q}"
        " --out {params.folder:q} --log {log:q}"


use rule plot_evaluation as plot_ablation with:
    input:
        "<results>/ablation.json",
    output:
        [show_plot(f"ablation_{name}", "Ablation", name) for name in EVALUATION_PLOTS],
        vectors=expand("<results>/plots/ablation_{name}.svg", name=EVALUATION_PLOTS),
    log:
        "<logs>/plot_ablation.log",
    benchmark:
        "<benchmarks>/plot_ablation.tsv"
    params:
        folder=subpath(output[0], parent=True),
        prefix="ablation_",


rule plot_pictures:
    """Plot the variants' images side by side."""
    input:
        prompts="<results>/evaluation/prompts.json",
        images=expand(
            "<results>/evaluation/images/{variant}/{stage_shard}.json",
            variant=dict.fromkeys(["fp", *config["evaluation_variants"]]),
            stage_shard=EVALUATION_SHARDS,
        ),
    output:
        [show_plot(name, "Pictures") for name in PICTURE_PLOTS],
        vectors=expand("<results>/plots/{name}.svg", name=PICTURE_PLOTS),
    log:
        "<logs>/plot_pictures.log",
    benchmark:
        "<benchmarks>/plot_pictures.tsv"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m workflow_scripts.plots.plot_pictures --prompts {input.prompts:q} --images {input.images:q}"
        " --out {params.folder:q} --log {log:q}"
