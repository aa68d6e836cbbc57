"""The memory of rows agrees with measured blocks of the true size, and decides the batch size."""

import pytest

from taqmlx.numerics.footprint import BATCH_BYTES, count_row_bytes, estimate_learning, limit_batch

WIDTH = 1536
EMBEDDED = {"tokens": 36, "width": 128}
# Tokens of image and text: megabytes that a row took in a block of that width, by MLX's own count.
MEASURED = {410: 90, 845: 326, 1613: 1098}


@pytest.mark.parametrize("tokens", MEASURED)
def test_a_row_takes_the_measured_memory(tokens):
    assert count_row_bytes(tokens, WIDTH) / 1e6 == pytest.approx(MEASURED[tokens], rel=0.01)


def test_in_fp16_no_scores_are_held():
    assert count_row_bytes(845, WIDTH, itemsize=2) == 2 * 10 * 845 * WIDTH


def test_kept_tensors_count_per_token():
    assert count_row_bytes(845, WIDTH, kept=3) - count_row_bytes(845, WIDTH) == 3 * 4 * 845 * WIDTH


@pytest.mark.parametrize("tokens", MEASURED)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_has_as_many_rows_as_fit_and_at_least_one(tokens, rows):
    found = limit_batch(1000, tokens, WIDTH, rows)
    taken = rows * count_row_bytes(tokens, WIDTH)
    assert found * taken <= BATCH_BYTES < (found + 1) * taken or (found == 1 and taken > BATCH_BYTES)


@pytest.mark.parametrize(("most", "rows", "kept"), [(64, 2, 0), (32, 2, 0), (64, 1, 12), (16, 2, 16)])
def test_the_embedded_model_has_the_largest_batches(most, rows, kept):
    assert limit_batch(most, **EMBEDDED, rows=rows, kept=kept) == most


@pytest.mark.parametrize(("rows", "tokens", "measured"), [(2, 410, 4.6e9), (6, 845, 5.43e9), (10, 845, 7.13e9)])
def test_the_estimate_for_learning_a_block_is_somewhat_above_the_measured_memory(rows, tokens, measured):
    """Resident memory of processes that learned a block of the true size, 57 million weights, for some iterations."""
    assert measured <= estimate_learning(24 * WIDTH**2, rows, 0, tokens, WIDTH) <= 1.1 * measured
