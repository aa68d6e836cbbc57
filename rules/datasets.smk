"""Dataset for other programs, in their layout, with its manifest; verification of all results.

INPUTS: <results>/trajectories.zarr/{shard}
OUTPUTS: <results>/manifest.json, and in <results>/exports/ samples/, latents/, images/ and a manifest of these files
"""


localrules:
    write_manifest,
    export_manifest,


rule write_manifest:
    """Write the manifest of the trajectories' images, from their seals."""
    input:
        params="<results>/params/collect_shard.json",
        store="<results>/trajectories.zarr/zarr.json",
        shards=expand("<results>/trajectories.zarr/{shard}", shard=SHARDS),
    output:
        "<results>/manifest.json",
    log:
        "<logs>/write_manifest.log",
    shell:
        "python -m workflow_scripts.datasets.write_manifest --params {input.params:q}"
        f" --trajectories {STORE}"
        " --out {output:q} --log {log:q}"


rule export_samples:
    """Export every state of every trajectory to a separate file."""
    input:
        params="<results>/params/collect_shard.json",
        store="<results>/trajectories.zarr/zarr.json",
        shards=expand("<results>/trajectories.zarr/{shard}", shard=SHARDS),
    output:
        directory("<results>/exports/samples"),
    log:
        "<logs>/export_samples.log",
    benchmark:
        "<benchmarks>/export_samples.tsv"
    shell:
        "python -m workflow_scripts.datasets.export_samples --params {input.params:q}"
        f" --trajectories {STORE}"
        " --out {output:q} --log {log:q}"


rule export_latents:
    """Export the final latents of every trajectory to separate files."""
    input:
        params="<results>/params/collect_shard.json",
        store="<results>/trajectories.zarr/zarr.json",
        shards=expand("<results>/trajectories.zarr/{shard}", shard=SHARDS),
    output:
        directory("<results>/exports/latents"),
    log:
        "<logs>/export_latents.log",
    benchmark:
        "<benchmarks>/export_latents.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.datasets.export_latents --params {input.params:q}"
        f" --trajectories {STORE}"
        " --out {output:q} --log {log:q}"


rule decode_latents:
    """Decode the exported latents to images."""
    input:
        params="<results>/params/collect_shard.json",
        latents="<results>/exports/latents",
    output:
        directory("<results>/exports/images"),
    log:
        "<logs>/decode_latents.log",
    benchmark:
        "<benchmarks>/decode_latents.tsv"
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.datasets.decode_latents --params {input.params:q} --latents {input.latents:q}"
        " --out {output:q} --log {log:q}"


rule export_manifest:
    """Write the manifest of the exported files."""
    input:
        params="<results>/params/collect_shard.json",
        store="<results>/trajectories.zarr/zarr.json",
        shards=expand("<results>/trajectories.zarr/{shard}", shard=SHARDS),
        files=expand("<results>/exports/{kind}", kind=("samples", "latents", "images")),
    output:
        "<results>/exports/manifest.json",
    log:
        "<logs>/export_manifest.log",
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m workflow_scripts.datasets.write_manifest --params {input.params:q}"
        f" --trajectories {STORE}"
        " --saved {params.folder:q} --out {output:q} --log {log:q}"


rule verify_dataset:
    """Verify all results and recompute some steps."""
    input:
        manifest="<results>/manifest.json",
        config="<results>/quant_config.json",
    log:
        "<logs>/verify_dataset.log",
    resources:
        mlx=1,
    params:
        folder=subpath(input.manifest, parent=True),
    shell:
        "python -m workflow_scripts.tools.verify_dataset --results {params.folder:q}"
        f" --trajectories {STORE}"
        " --log {log:q}"
