"""Denoising trajectories, one group of the store per shard of prompts.

INPUTS: <results>/conditioning.safetensors
OUTPUTS: <results>/trajectories.zarr/{shard}; with `trajectories_url` the shards are stored there, their receipts here
"""


localrules:
    create_store,


rule create_store:
    """Create the store, with one group per shard."""
    output:
        "<results>/trajectories.zarr/zarr.json",
    log:
        "<logs>/create_store.log",
    shell:
        "python -m workflow_scripts.trajectories.create_store"
        f" --store {STORE}"
        " --out {output:q} --log {log:q}"


rule collect_shard:
    """Record the trajectories of shard {wildcards.shard}."""
    input:
        params="<results>/params/collect_shard.json",
        conditioning="<results>/conditioning.safetensors",
        seal="<results>/conditioning.json",
        store="<results>/trajectories.zarr/zarr.json",
    output:
        directory("<results>/trajectories.zarr/{shard}"),
    log:
        "<logs>/collect_shard/{shard}.log",
    benchmark:
        "<benchmarks>/collect_shard/{shard}.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("collect_shard"),
        runtime=ask_minutes("collect_shard"),
    params:
        # Undeclared on purpose: Snakemake deletes the outputs of a failed job, and partial progress within a shard must
        # survive.
        scratch=subpath(input.store, ancestor=2),
    shell:
        "python -m workflow_scripts.trajectories.collect_shard --params {input.params:q} --conditioning {input.conditioning:q}"
        " --shard {wildcards.shard} --scratch {params.scratch:q}/scratch/{wildcards.shard}"
        f" --out {STORE}/{{wildcards.shard}}"
        " --receipt {output:q} --log {log:q}"


rule verify_trajectories:
    """Verify every finished shard against its seal."""
    input:
        params="<results>/params/collect_shard.json",
        conditioning="<results>/conditioning.safetensors",
        seal="<results>/conditioning.json",
        store="<results>/trajectories.zarr/zarr.json",
        shards=expand("<results>/trajectories.zarr/{shard}", shard=SHARDS),
    log:
        "<logs>/verify_trajectories.log",
    shell:
        "python -m workflow_scripts.tools.verify_trajectories --params {input.params:q}"
        " --conditioning {input.conditioning:q}"
        f" --trajectories {STORE}"
        " --log {log:q}"
