"""Every kind of file in the results, and the job that detects damage to it."""

import sys
from fnmatch import fnmatchcase
from pathlib import Path

from tools.commands import find_module
from tools.faults.undisturbed import Job, Run

VERIFY = "verify_dataset"  # what no job reads any more is checked by this command

# The first pattern that fits a file's name below the results says which rule's job reads all of it.
READERS = {
    "*.sha256": VERIFY,
    "params/*": "*",  # whichever has it among its inputs
    "conditioning.safetensors": "gather_calibration",  # a shard reads its own prompts' alone
    "conditioning.json": "collect_shard",
    "trajectories.zarr/*": "gather_calibration",
    "calibration.zarr/*": "capture_blocks",
    "DiT_cali_data.npz": VERIFY,
    "activations/shards/*": "merge_activations",
    "activations/statistics.*": "write_quant_config",
    "block_inputs.zarr/*": "optimise_block",
    "adaround/*.report.json": "plot_blocks",
    "adaround/*": "distil",
    "distilled.report.json": "write_report",
    "distilled.*": "pack_weights",
    # Of the published folder, for people and for programs that are not here.
    "quantized/README.md": VERIFY,
    "quantized/load_quantized.py": VERIFY,
    "quantized/pictures.png": VERIFY,
    "quantized/quantization_report.html": VERIFY,
    "mflux/*": VERIFY,
    "quantized/*": "write_quant_config",
    "quant_config.*": "write_multitier",
    "quant_config_multitier.*": "measure_size",
    "sensitivity/*.json": "write_multitier",
    "sensitivity/*.safetensors": "plot_blocks",
    "folds.safetensors": "measure_costs",
    "weight_costs.json": "search_bits",
    "mixed_bits.json": "pack_weights",
    "evaluation/prompts.json": "generate_images",
    "evaluation/reference/*": "extract_reference_features",
    "evaluation/reference.json": "extract_reference_features",
    "evaluation/images/*.png": "extract_features",
    "evaluation/images/*": "compare_variant",
    "evaluation/features/*": "compare_variant",
    "evaluation/compared/*": "score",
    "evaluation/sizes/multitier.json": VERIFY,  # it is made so that the arrays of the config have a reader
    "evaluation/sizes/*": "score",
    "evaluation/growth/*": "score",
    "frontier/reference.safetensors": "draw_plain",
    "frontier/*": "measure_frontier",
    "frontier.json": "write_report",
    "frontier.md": VERIFY,  # for people
    "fid.json": "plot_evaluation",
    "plots/*.png": "write_report",
    "manifest.json": VERIFY,
    "exports/*": VERIFY,
    "ladder/*.report.json": VERIFY,  # read by write_ladder, which is no part of the undisturbed run
    "ladder/*": "generate_images",
    # For people, and for programs that are not here.
    "plots/*.svg": VERIFY,
    "report.html": VERIFY,
    "activations/ranges.md": VERIFY,
    "activations/layer_temporal_analysis.json": VERIFY,
    "activations/layer_statistics.json": VERIFY,
    "activations/quantization_config.json": VERIFY,
}


def find_pattern(name: str) -> str:
    """The first pattern of the table that fits the file `name`. Raises KeyError for a file that is not in it."""
    for pattern in READERS:
        if fnmatchcase(name, pattern):
            return pattern
    raise KeyError(f"{name} is not in the table of readers")


def list_readers(run: Run, name: str) -> list[Job]:
    """The jobs that read the file `name`, by the table."""
    reader = READERS[find_pattern(name)]
    if reader == VERIFY:
        command = (sys.executable, "-m", find_module(VERIFY), "--results", "{results}")
        return [Job(VERIFY, (), (), "", command)]
    # What is no declared input is read with what is: pictures with their seal, arrays with what names them.
    places = [name] if run.find_readers(name) else run.find_producer(name).outputs
    found = dict.fromkeys(job for place in places for job in run.find_readers(place))
    jobs = [job for job in found if reader in ("*", job.rule)]
    if name.startswith("block_inputs.zarr") and name.split("/")[2] in ("image", "text"):
        index = min(int(Path(name).name.split(".")[1]), max(len(jobs) - 1, 0)) if "/c." in name else 0
        jobs = [job for job in jobs if f"adaround/mm_{index:02d}.json" in job.outputs]
    return jobs
