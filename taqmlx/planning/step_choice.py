"""Which of the selected steps are observed. Standard library only, as planning asks it too."""

from collections.abc import Sequence

# every how manyth step of each third of the trajectory the dense-middle choice takes
_EARLY_STRIDE, _MIDDLE_STRIDE, _LATE_STRIDE = 5, 3, 5


def choose_steps(choice: str | int, steps: Sequence[int]) -> list[int]:
    """The `steps` (ascending) that `choice` names.

    `all`; `key`, the ends, the quarters, every third step of the middle third and every fifth outside it (17 of 50);
    or a stride, with the last step added, where sigma is smallest.
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
