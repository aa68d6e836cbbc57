"""The fixtures of the transformer's tests, for the tests of reconstruction."""

from tests.mmdit.conftest import captured, conditions, flat, latents, study, transformer  # noqa: F401
