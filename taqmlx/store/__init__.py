"""Storage of results: atomic files, locks, seals and Zarr arrays."""
