"""What tests of the transformer have, tests of what stands on it have too."""

from tests.mmdit.conftest import captured, conditions, flat, latents, study, transformer  # noqa: F401
