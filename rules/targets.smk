"""Every deliverable as a named target, the same for all configurations."""


localrules:
    trajectories,
    calibration,
    activations,
    adaround,
    quantized,
    quant_config,
    evaluation,


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
        expand("<results>/adaround/{block}.safetensors", block=BLOCKS),


rule quantized:
    input:
        "<results>/quantized/model.safetensors",


rule quant_config:
    input:
        "<results>/quant_config.json",


rule evaluation:
    input:
        "<results>/fid.json",
