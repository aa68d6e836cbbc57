"""The sensitivity of all blocks, by layer."""

import pytest

from taqmlx.store.layer_errors import list_layer_errors
from taqmlx.store.sensitivity_file import read_sensitivities
from tools.small_results.sensitivity import CLIPS, write_sensitivities

SIGMAS = [1.0, 0.5]


@pytest.fixture
def found(tmp_path):
    files = write_sensitivities(
        tmp_path,
        SIGMAS,
        lambda reader, bits: [10.0**-bits, 2 * 10.0**-bits],
        lambda layer, bits: 4.0**-bits,
    )
    return list_layer_errors(read_sensitivities(files, "embedded"))


def test_layers_with_a_shared_input_have_its_errors(found):
    q, k = (found.inputs[f"mm_01.text.attn.{name}_proj"] for name in "qk")
    assert q is k
    assert q[6].errors.tolist() == [1e-6, 2e-6]
    assert (q[6].sigmas, q[6].clip, q[6].inside) == (SIGMAS, CLIPS[6], 0.99)
    assert "mm_01.text.adaLN_modulation" not in found.inputs


def test_a_weight_has_the_error_of_the_worse_stream(found):
    assert found.weights["mm_01.text.mlp.fc1"][4] == 4.0**-4
    assert found.weights["mm_04.image.mlp.fc1"][2] == 4.0**-2
    assert "mm_01.text.adaLN_modulation" in found.weights
