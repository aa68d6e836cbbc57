"""Report page: tables and figures in the template, with inlined style and script."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from taqmlx.report.tables import Facts

FOLDER = Path(__file__).parent


def render_page(content: Facts) -> str:
    """Render the whole file as HTML; all text in `content` is escaped.

    Its content security policy allows only the inlined style and script, by their digests, and embedded pictures.
    """
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{digest(style)}'; script-src '{digest(script)}'"
    )
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    return template.render(content, style=Markup(style), script=Markup(script), policy=policy)


def digest(text: str) -> str:
    """Digest in the form of a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
