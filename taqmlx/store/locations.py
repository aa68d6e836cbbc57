"""Location of a store: a folder, or a URL that fsspec understands, such as `s3://bucket/run/trajectories.zarr`.

A `RemotePath` implements the subset of `pathlib.Path` needed to read and publish a store. It never replaces or deletes
anything: an object is created, or already exists with the same bytes. Endpoint and credentials come from the
environment or from fsspec's own configuration. fsspec takes longer to load than a worker to start, so it is imported
only when there is a URL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from taqmlx.planning.plain_files import read_plain
from taqmlx.store.errors import UnreachableError, UserError

HINT = "check the bucket, AWS_ENDPOINT_URL and the credentials in the environment"


class RemotePath:
    """Object or folder `key` of an fsspec file system."""

    def __init__(self, filesystem: Any, key: str):
        self.filesystem, self.key = filesystem, key.rstrip("/")

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.filesystem, f"{self.key}/{name}")

    def __str__(self) -> str:
        url: str = self.filesystem.unstrip_protocol(self.key)
        return url

    @property
    def name(self) -> str:
        """Last part of the key."""
        return self.key.rpartition("/")[2]

    def is_file(self) -> bool:
        """True if the object exists. Raises UnreachableError."""
        try:
            return bool(self.filesystem.info(self.key)["type"] == "file")
        except Exception as error:
            if isinstance(reason := self.judge(error), FileNotFoundError):
                return False
            raise reason from error

    def read_bytes(self) -> bytes:
        """Read the object. Raises FileNotFoundError, or UnreachableError if its existence is unknown."""
        try:
            content: bytes = self.filesystem.cat_file(self.key)
            return content
        except Exception as error:
            raise self.judge(error) from None

    def create(self, content: bytes) -> None:
        """Write the object and read it back.

        Raises UserError if another object exists or the bytes read differ from those written; UnreachableError.
        """
        try:
            self.filesystem.pipe_file(self.key, content, mode="create")
        except FileExistsError:
            pass  # by an interrupted upload, or another worker of the same shard; the bytes are compared below
        except Exception as error:
            raise self._explain(error) from error
        if self.read_bytes() != content:
            raise UserError(f"{self} is in the way: it holds other bytes; delete what is there and run again")

    def list_keys(self) -> list[str]:
        """Keys of all objects below, relative to this one. Raises UnreachableError, also for a missing bucket."""
        try:
            keys = self.filesystem.find(self.key)
        except Exception as error:
            raise self._explain(error) from error
        return [key.removeprefix(f"{self.key}/") for key in keys if key != self.key]

    def list_folders(self) -> list[str]:
        """Names of the folders in this one. Raises UnreachableError."""
        try:
            entries = self.filesystem.ls(self.key, detail=True)
        except Exception as error:
            if isinstance(reason := self.judge(error), FileNotFoundError):
                return []
            raise reason from error
        return [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory"]

    def judge(self, error: Exception) -> Exception:
        """Classify a read error: FileNotFoundError if the object does not exist, else UnreachableError."""
        if not isinstance(error, FileNotFoundError):
            return self._explain(error)
        self.list_keys()  # raises if the bucket is missing
        return FileNotFoundError(str(self))

    def _explain(self, error: Exception) -> UnreachableError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return UnreachableError(f"{self} cannot be read or written ({reason}); {HINT}")


Location = Path | RemotePath


def open_location(text: str) -> Location:
    """Return the folder or URL named by `text`. Raises UserError for an invalid URL."""
    if "://" not in text:
        return Path(text)
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise UserError("a URL must not hold credentials: it is written to logs; put them in the environment")
    try:
        import fsspec

        filesystem, key = fsspec.url_to_fs(text, use_listings_cache=False)
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(f"{text} is not a supported URL ({error})") from error
    return RemotePath(filesystem, key)


def read_files(places: Sequence[Location], largest: int | None = None) -> Iterator[bytes | Exception]:
    """Yield the content of each of several files of one store, or the error of reading it; at a URL concurrently.

    A local file with more than `largest` bytes gives a ValueError. Raises UnreachableError.
    """
    remote = [place for place in places if isinstance(place, RemotePath)]
    if remote:
        keys = [place.key for place in remote]
        for place, content in zip(remote, remote[0].filesystem.cat_ranges(keys, None, None), strict=True):
            reason = place.judge(content) if isinstance(content, Exception) else None
            if isinstance(reason, UnreachableError):
                raise reason
            yield reason or content
        return
    for path in (place for place in places if isinstance(place, Path)):
        try:
            yield read_plain(path, largest)
        except (OSError, ValueError) as error:
            yield error


def list_files(place: Location) -> set[str]:
    """Names, relative to `place`, of all files below it."""
    if isinstance(place, RemotePath):
        return set(place.list_keys())
    return {str(file.relative_to(place)) for file in place.rglob("*") if file.is_file()}


def list_folders(place: Location) -> list[str]:
    """Names of the folders in `place`, sorted."""
    if isinstance(place, RemotePath):
        return sorted(place.list_folders())
    return sorted(path.name for path in place.glob("*") if path.is_dir())
