"""Finished groups on their way from one place to another; a reader sees a group whole or not at all.

In a folder a group appears by being renamed. Object storage knows no renaming and no locks: there the objects are
created one by one, each read back, and the root's metadata with the seal last. Without it a reader sees no group.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from taqmlx.store.errors import UserError
from taqmlx.store.files import SNAKEMAKE_MARKS
from taqmlx.store.places import Place, RemotePath, list_files
from taqmlx.store.zarr_arrays import FILES_AT_ONCE, write_files

SEALED = "zarr.json"


def publish_group(group: Path, out: Place) -> None:
    """Make the sealed group in the folder `group` the group `out`: renamed if that is a folder, else uploaded.

    Raises UserError, naming the object, if `out` holds anything else; what is there is never replaced.
    """
    if isinstance(out, RemotePath):
        upload_group(group, out)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    group.replace(out)


def upload_group(group: Path, out: RemotePath) -> None:
    """Create the objects of the group, the sealed one last. Raises as `publish_group`."""
    names = {name for name in list_files(group) if Path(name).name not in SNAKEMAKE_MARKS}
    for name in sorted(list_files(out) - names):
        raise UserError(f"{out / name} is in the way: it is not of this group; delete {out} and run again")

    def create(name: str) -> None:
        (out / name).create((group / name).read_bytes())

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        list(pool.map(create, sorted(names - {SEALED})))
    create(SEALED)


def fetch_group(source: Place, folder: Path) -> None:
    """Copy the files of a group to `folder`; they are on disk when this returns, and to be verified."""
    names = [name for name in sorted(list_files(source)) if Path(name).name not in SNAKEMAKE_MARKS]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write_files((folder / name, (source / name).read_bytes) for name in names)
