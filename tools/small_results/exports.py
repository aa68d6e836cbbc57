"""Exports and quantization of a small set of trajectories."""

from argparse import Namespace

from taqmlx.store.files import read_json
from tools.small_results.shards import CONFIG
from tools.small_results.study import Study, write_rounded_blocks
from workflow_scripts.datasets import decode_latents, export_latents, export_samples, write_manifest


def export(folder):
    """Write the manifest and all exports of the trajectories in `folder`."""
    params, store, exports = folder / "params" / "collect_shard.json", folder / "trajectories.zarr", folder / "exports"
    write_manifest.main(Namespace(params=params, trajectories=store, saved=None, out=folder / "manifest.json"))
    export_samples.main(Namespace(params=params, trajectories=store, out=exports / "samples"))
    export_latents.main(Namespace(params=params, trajectories=store, out=exports / "latents"))
    decode_latents.main(Namespace(params=params, latents=exports / "latents", out=exports / "images"))
    write_manifest.main(
        Namespace(params=params, trajectories=store, saved=exports, out=exports / "manifest.json"),
    )


def quantize(folder):
    """Statistics, packed weights and the quantization config, from the calibration set in `folder`."""
    study = Study(folder, selected_steps=CONFIG["selected_steps"])
    for shard in study.list_shards():
        study.collect(shard)
    study.merge()
    sigmas = read_json(study.statistics)["sigmas"]
    study.pack(write_rounded_blocks(folder / "adaround", read_json(study.params("optimise_block")), sigmas=sigmas))
    study.write_config()
