"""The summary at the end of a run follows from its results."""

import pytest

from taqmlx.runtime.summary import describe_results
from taqmlx.store.files import write_plain_json


def describe(folder, weights, activations):
    """The last line about a quantization config of layers of these widths."""
    layers = {
        f"layer {index}": {"weight": {"bits": weight}, "activation": {"bits": activation}}
        for index, (weight, activation) in enumerate(zip(weights, activations, strict=True))
    }
    write_plain_json(folder / "quant_config.json", {"layers": layers})
    return describe_results(folder)[-1].strip()


@pytest.mark.parametrize(
    ("weights", "activations", "line"),
    [
        ([4, 8, 16], [8, 8, 16], "weights are packed (4- and 8-bit); 8-bit activations are simulated"),
        ([4, 4], [3, 16], "weights are packed (4-bit); 3-bit activations are simulated"),
        ([2, 4], [[4, 6, 8], 8], "weights are packed (2- and 4-bit); 4-, 6- and 8-bit activations are simulated"),
        ([4, 4], [16, 16], "weights are packed (4-bit); activations are not quantized"),
        ([16, 16], [8, 8], "weights are not quantized; 8-bit activations are simulated"),
        ([16], [16], "weights are not quantized; activations are not quantized"),
    ],
)
def test_the_widths_are_those_of_the_config(weights, activations, line, tmp_path):
    assert describe(tmp_path, weights, activations) == line


def test_a_damaged_config_is_reported(tmp_path):
    (tmp_path / "quant_config.json").write_text("{")
    assert describe_results(tmp_path)[-1].strip() == f"{tmp_path / 'quant_config.json'} is damaged"
