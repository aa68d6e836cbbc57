"""A local S3 server by moto with a bucket per test; it can die, reject, or call back at the n-th upload."""

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread
from urllib.request import Request, urlopen

import fsspec
from moto import settings as moto_settings
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import make_server

from taqmlx.store.locations import RemotePath, open_location

SECRET = "an-endless-secret"


class Server:
    """An S3 server on a port of its own. What was uploaded outlives `stop`, as on a disk."""

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.backend = DomainDispatcherApplication(create_backend_app)
        self.numbers, self.lock = itertools.count(), Lock()
        self.uploads = 0
        self.on_upload: Callable[[int], None] | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before."""
        self.server = make_server("127.0.0.1", self.port, self._answer, threaded=True)
        self.port = self.server.server_port
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Reject connections from now on."""
        self.server.shutdown()
        self.server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What a user of the server sets, with few attempts so that a dead one is soon found."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "a-key",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def create_bucket(self) -> str:
        """The URL of a new bucket."""
        name = f"bucket-{next(self.numbers)}"
        urlopen(Request(f"{self.environment['AWS_ENDPOINT_URL']}/{name}", method="PUT")).close()
        return f"s3://{name}"

    @contextmanager
    def reject_keys(self) -> Iterator[None]:
        """Know no access key, as long as this lasts."""
        moto_settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        try:
            yield
        finally:
            moto_settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")

    def _answer(self, environ: dict, start_response: Callable) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "PUT" and self.on_upload:
            with self.lock:
                self.uploads += 1
                self.on_upload(self.uploads)
        return self.backend(environ, start_response)


@contextmanager
def connect_anew() -> Iterator[None]:
    """Forget all connections before and after: a file system keeps the endpoint and the keys it first found."""
    S3FileSystem.clear_instance_cache()
    try:
        yield
    finally:
        S3FileSystem.clear_instance_cache()


def mirror(folder: Path, url: str) -> RemotePath:
    """Put the files of `folder` below a URL, whatever is there and whatever they hold."""
    filesystem, key = fsspec.url_to_fs(url)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    filesystem.pipe({f"{key}/{name}": content for name, content in files.items()})
    return open_location(url)


def read_objects(place: RemotePath) -> dict[str, bytes]:
    """The objects below a place."""
    return {key: (place / key).read_bytes() for key in place.list_keys()}
