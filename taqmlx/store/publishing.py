"""Publishing of finished groups; a reader sees a group complete or not at all.

In a folder a group is published by renaming it. Object storage has no rename and no locks: the objects are created one
by one and read back, and the root metadata with the seal is created last. Without it a reader sees no group.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from taqmlx.store.errors import UserError
from taqmlx.store.files import SNAKEMAKE_MARKS
from taqmlx.store.locations import Location, RemotePath, list_files
from taqmlx.store.zarr_arrays import FILES_AT_ONCE, write_files

SEALED = "zarr.json"


def publish_group(group: Path, out: Location) -> None:
    """Publish the sealed group in folder `group` as `out`: by renaming to a folder, or by uploading to a URL.

    Raises UserError, naming the object, if `out` holds anything else; existing objects are never replaced.
    """
    if isinstance(out, RemotePath):
        upload_group(group, out)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    group.replace(out)


def upload_group(group: Path, out: RemotePath) -> None:
    """Create the objects of the group, the root metadata last. Raises as `publish_group`."""
    names = {name for name in list_files(group) if Path(name).name not in SNAKEMAKE_MARKS}
    for name in sorted(list_files(out) - names):
        raise UserError(f"{out / name} is in the way: it is not of this group; delete {out} and run again")

    def create(name: str) -> None:
        (out / name).create((group / name).read_bytes())

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        list(pool.map(create, sorted(names - {SEALED})))
    create(SEALED)


def fetch_group(source: Location, folder: Path) -> None:
    """Copy the files of a group to `folder`; they are on disk on return and still have to be verified."""
    names = [name for name in sorted(list_files(source)) if Path(name).name not in SNAKEMAKE_MARKS]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write_files((folder / name, (source / name).read_bytes) for name in names)
