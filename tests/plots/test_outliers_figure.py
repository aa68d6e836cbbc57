"""The figure of the outliers of layer inputs: a line of each model and stream in the panel of its role."""

import pytest

from taqmlx.plots.outliers import draw_outliers

MODELS = {
    "large": {f"mm_{block:02d}.text.mlp.fc1": {"absmax": 10.0 + block, "spread": 3.0} for block in range(5)},
    "small": {
        "mm_00.text.mlp.fc1": {"absmax": 5.0, "spread": 2.0, "offset": 0.5},
        "mm_01.text.mlp.fc1": {"absmax": 7.0, "spread": 2.0, "offset": 0.6},
        "mm_01.image.mlp.fc1": {"absmax": 6.0, "spread": 2.0, "offset": 0.1},
        "context_embedder": {"absmax": 800.0, "spread": 900.0},
    },
}


@pytest.fixture(scope="module")
def panels():
    """Panels of the column of fc1, by measure."""
    axes = draw_outliers(MODELS).axes
    return dict(zip(("absmax", "spread", "drift", "offset"), axes[2::4], strict=True))


def test_blocks_stand_at_their_relative_depth(panels):
    lines = [line.get_xydata().tolist() for line in panels["absmax"].lines]
    assert [[0.0, 5.0], [1.0, 7.0]] in lines
    assert [[1.0, 6.0]] in lines
    assert [[block / 4, 10.0 + block] for block in range(5)] in lines
    assert len(lines) == 3


def test_a_measure_that_a_model_lacks_is_left_out(panels):
    assert len(panels["offset"].lines) == 2
    assert not panels["drift"].lines
