"""How results lie on disk: atomic files, locks, seals and Zarr arrays."""
