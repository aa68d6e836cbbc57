"""mflux itself, from PyPI in an environment of its own, loads and runs a miniature FLUX.1-schnell: `make mflux`."""
