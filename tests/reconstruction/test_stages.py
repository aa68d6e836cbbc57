"""Chains of stages: gradients by stage are those of the whole graph, in the memory of one stage."""

import mlx.core as mx
import numpy as np
import pytest

from taqmlx.reconstruction.stages import BY_STAGE, LOSS, WHOLE, Stage, run_stages

WIDTH, ROWS = 512, 4
KEPT = WIDTH * WIDTH * 4  # bytes of the weight that a stage restores


def make_chain(count, learned=None):
    """Stages x -> tanh(W x), W of codes and a scale per output, then the loss; learned scales, fixed ones, the first
    activations, and how often each stage has run. learned: places of the stages with a learned scale; None for all.
    """
    rng, calls, stages, scales, fixed = np.random.default_rng(0), [0] * count, [], {}, {}

    def bind(place, codes):
        def run(own, before):
            calls[place] += 1
            weight = codes.astype(mx.float32) * (own["scales"] | own["frozen"])[str(place)]
            return before | {"x": mx.tanh(before["x"] @ weight.T)}

        return run

    for place in range(count):
        codes = mx.array(rng.integers(-7, 8, (WIDTH, WIDTH)).astype(np.int8))
        home = scales if learned is None or place in learned else fixed
        home[str(place)] = mx.array(rng.uniform(0.005, 0.015, (WIDTH, 1)).astype(np.float32))
        stages.append(Stage(frozenset([str(place)]), bind(place, codes)))
    stages.append(Stage(frozenset(), lambda own, before: {LOSS: mx.square(before["x"]).mean(), "last": before["x"]}))
    first = {"x": mx.array(rng.standard_normal((ROWS, WIDTH)).astype(np.float32))}
    return stages, {"scales": scales}, {"frozen": fixed}, first, calls


def measure_peak(strategy, count):
    """Bytes beyond those there before, at the most, of the gradients through `count` stages."""
    stages, learned, fixed, first, _ = make_chain(count)
    mx.eval(learned, first)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(strategy.differentiate(stages, learned, fixed, first))
    return mx.get_peak_memory() - before


@pytest.mark.parametrize("strategy", [WHOLE, BY_STAGE], ids=["whole", "by stage"])
def test_gradients_are_those_of_finite_differences(strategy):
    stages, learned, fixed, first, _ = make_chain(3)
    last, gradients = strategy.differentiate(stages, learned, fixed, first)
    assert last[LOSS].item() == pytest.approx(run_stages(WHOLE, stages, fixed | learned, first)[LOSS].item(), rel=1e-6)
    for name, scale in learned["scales"].items():
        step = 1e-2 * scale
        moved = [{"scales": learned["scales"] | {name: scale + sign * step}} for sign in (1, -1)]
        losses = [run_stages(WHOLE, stages, fixed | own, first)[LOSS].item() for own in moved]
        slope = (gradients["scales"][name] * step).sum().item()
        assert slope == pytest.approx((losses[0] - losses[1]) / 2, rel=1e-2, abs=1e-6)


def test_both_ways_give_the_same_last_activations_and_gradients():
    stages, learned, fixed, first, _ = make_chain(4)
    (last, gradients), (other, others) = (way.differentiate(stages, learned, fixed, first) for way in (WHOLE, BY_STAGE))
    assert last.keys() == other.keys() == {LOSS, "last"}
    np.testing.assert_allclose(np.array(other["last"]), np.array(last["last"]), rtol=1e-5, atol=1e-6)
    assert gradients["scales"].keys() == others["scales"].keys() == learned["scales"].keys()
    for name, gradient in gradients["scales"].items():
        np.testing.assert_allclose(np.array(others["scales"][name]), np.array(gradient), rtol=1e-4, atol=1e-7)


def test_a_layer_that_two_stages_read_has_the_sum_of_both_gradients():
    """As the layers of a model in several Euler steps."""
    stages, learned, fixed, first, _ = make_chain(2)
    twice = [*stages[:2], *stages]
    found, expected = (way.differentiate(twice, learned, fixed, first)[1]["scales"] for way in (BY_STAGE, WHOLE))
    for name, gradient in expected.items():
        np.testing.assert_allclose(np.array(found[name]), np.array(gradient), rtol=1e-4, atol=1e-7)


def test_stages_before_the_first_learned_one_run_once():
    """Those from it on run again for their gradients."""
    stages, learned, fixed, first, calls = make_chain(4, learned={2})
    _, gradients = BY_STAGE.differentiate(stages, learned, fixed, first)
    assert calls == [1, 1, 2, 2]
    assert gradients["scales"].keys() == {"2"}


def test_the_weights_and_gradients_of_one_stage_are_in_memory_at_a_time():
    """Twice the stages take no further weight."""
    short, long = (measure_peak(BY_STAGE, count) for count in (6, 12))
    assert long - short < KEPT
    assert KEPT < short < 6 * KEPT
