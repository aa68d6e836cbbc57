"""A local Hub that serves given files, or rejects them like the real one."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tools.miniature.cache import COMMIT

GATED = 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this repository is restricted."}
UNKNOWN = 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."}


@contextmanager
def serve(files, monkeypatch, refusal=None):
    """While it lasts the Hub's client asks here; yields the paths of what was downloaded."""
    contents = {f"/{file.repo}/resolve/main/{file.name}": content for file, content in files.items()}
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, has_body):
            content = contents.get(self.path, b"")
            status, headers = refusal or (200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'})
            self.send_response(status)
            for name, value in (headers | {"X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if has_body and self.path in contents:
                asked.append(self.path)
                self.wfile.write(content)

        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (
        ("ENDPOINT", address),
        ("HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_OFFLINE", False),
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
