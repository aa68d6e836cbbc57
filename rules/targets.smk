"""Named targets for all deliverables, the same for all configurations."""


localrules:
    trajectories,
    calibration,
    activations,
    adaround,
    quantized,
    quant_config,
    mflux,
    evaluation,
    fid,
    frontier,
    ablation,
    analysis,
    multitier,
    plots,
    report,
    model_card,
    manifest,
    exports,


rule trajectories:
    input:
        expand("<results>/trajectories.zarr/{shard}", shard=SHARDS),


rule calibration:
    input:
        "<results>/calibration.zarr",
        "<results>/DiT_cali_data.npz",


rule activations:
    input:
        "<results>/activations/statistics.json",
        "<results>/activations/ranges.md",


rule adaround:
    input:
        expand("<results>/adaround/{unit}.safetensors", unit=UNITS),


rule quantized:
    input:
        "<results>/quantized/model.safetensors",
        "<results>/quantized/load_quantized.py",


rule quant_config:
    input:
        "<results>/quant_config.json",


rule mflux:
    input:
        "<results>/mflux/transformer.json",


rule evaluation:
    input:
        "<results>/fid.json",


rule fid:
    input:
        "<results>/fid.json",


rule frontier:
    input:
        "<results>/frontier.json",


rule ablation:
    input:
        "<results>/ablation.json",
        "<results>/ablation.md",
        expand("<results>/plots/{name}.png", name=ABLATION_PLOTS),


rule multitier:
    input:
        "<results>/quant_config_multitier.json",


rule analysis:
    input:
        "<results>/activations/layer_temporal_analysis.json",
        "<results>/quant_config_multitier.json",
        "<results>/mixed_bits.json",


rule plots:
    input:
        expand("<results>/plots/{name}.png", name=PLOTS),


rule model_card:
    input:
        "<results>/quantized/README.md",


rule report:
    input:
        "<results>/report.html",


rule manifest:
    input:
        "<results>/manifest.json",


rule exports:
    input:
        "<results>/exports/manifest.json",
        expand("<results>/exports/{kind}", kind=("samples", "latents", "images")),
