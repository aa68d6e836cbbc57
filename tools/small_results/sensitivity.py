"""Small sensitivity files in the layout that `measure_sensitivity` writes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from taqmlx.models.catalogue import find_model
from taqmlx.planning import plan
from taqmlx.planning.layers import list_linears
from taqmlx.store.sensitivity_file import write_sensitivity

CLIPS = {4: 0.5, 6: 0.75, 8: 1.0}
WEIGHT_BITS = (2, 3, 4, 5, 6, 8)


def write_sensitivities(
    folder: Path,
    sigmas: Sequence[float],
    measure_input: Callable[[str, int], list[float]],
    measure_weight: Callable[[str, int], float],
) -> list[Path]:
    """A file for each block of the embedded model.

    `measure_input(reader, bits)` gives the errors at `sigmas`, `measure_weight(layer, bits)` that of the image stream;
    the text stream has half of it, the last block none.
    """
    multimodal, unified = plan.MODEL_BLOCKS["embedded"]
    layers, files = list_linears(multimodal, unified), []
    for block in plan.list_block_names("embedded"):
        own = [layer for layer in layers if layer.block == block]
        streams = {"image": 1.0} if block == "mm_04" else {"image": 1.0, "text": 0.5}
        readers = {
            layer.input: [x.name for x in own if x.input == layer.input] for layer in own if layer.role != "adaLN"
        }
        content = {
            "model": "embedded",
            "block": block,
            "sigmas": list(sigmas),
            "points": 8,
            "gains": dict.fromkeys(streams, 0.1),
            "weights": {
                layer.name: {
                    "elements": 16,
                    "config_bits": 4,
                    "errors": {
                        str(bits): {"bits_per_weight": bits + 0.5}
                        | {stream: share * measure_weight(layer.name, bits) for stream, share in streams.items()}
                        for bits in WEIGHT_BITS
                    },
                }
                for layer in own
            },
            "inputs": {
                reader: {
                    "layers": names,
                    "post_gelu": reader.endswith(".fc2"),
                    "tiers": {
                        str(bits): {"clip": clip, "inside": 0.99, "errors": measure_input(reader, bits)}
                        for bits, clip in CLIPS.items()
                    },
                    "clips": {},
                }
                for reader, names in readers.items()
            },
            "distributions": {},
            "origin": {"model": find_model("embedded").file_digests(), "block_inputs": ["0" * 64]},
        }
        files.append(folder / f"{block}.json")
        write_sensitivity(files[-1], content, {})
    return files
