"""Finished trajectories that Snakemake would make again for their date alone. Standard library only.

Snakemake goes by dates where a file is too large for it to compare what is in it, and deletes a job's outputs before
the job. So a clock that went back, or files copied without their times, would cost the most expensive of all results,
though their seals say that they are what they should be.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

COMPARED = 1_000_000  # bytes: up to here Snakemake compares what is in a file (--max-checksum-file-size)
MARK = ".snakemake_timestamp"


def find_outdated_shards(results: Path, smallest: int = COMPARED) -> Iterator[str]:
    """A line, with the cure, for the first finished shard in `results` that is older than the prompts' encodings."""
    encodings, parameters = results / "conditioning.safetensors", results / "params" / "encode_prompts.json"
    if not encodings.is_file() or encodings.stat().st_size <= smallest:
        return
    made = encodings.stat().st_mtime
    for group in sorted((results / "trajectories.zarr").glob("[0-9]*")):
        mark = group / MARK
        if (mark if mark.exists() else group).stat().st_mtime < made:
            yield (
                f"{encodings} is younger than {group}, which was made from it: the clock went back, or files were"
                " copied without their times; make them again with --config overwrite=true, or keep them:"
                f" touch -r {shlex.quote(str(parameters))} {shlex.quote(str(encodings))}"
            )
            return
