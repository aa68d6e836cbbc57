"""Choice of the observed steps among the selected ones. Standard library only, since planning reads it too."""

from collections.abc import Sequence

# Strides of the "key" selection in the early, middle and late third.
_EARLY_STRIDE, _MIDDLE_STRIDE, _LATE_STRIDE = 5, 3, 5


def select_timesteps(choice: str | int, steps: Sequence[int]) -> list[int]:
    """The subset of `steps` (ascending) selected by `choice`.

    `all`: every step. `key`: both ends, the quarters, every third step of the middle third and every fifth step outside
    it (17 of 50). A number: that stride, plus the last step, where sigma is smallest.
    """
    n = len(steps)
    if choice == "all":
        return list(steps)
    if choice == "key":
        kept = {0, n - 1, n // 4, n // 2, 3 * n // 4}
        kept |= set(range(0, n // 3, _EARLY_STRIDE))
        kept |= set(range(n // 3, 2 * n // 3, _MIDDLE_STRIDE))
        kept |= set(range(2 * n // 3, n, _LATE_STRIDE))
    else:
        kept = {*range(0, n, int(choice)), n - 1}
    return [steps[i] for i in sorted(kept)]
