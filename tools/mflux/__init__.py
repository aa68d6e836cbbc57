"""mflux itself, from PyPI in an environment of its own, at the miniature's sizes."""
