"""Gives the site the layout of the repository, so that relative links lead to the same page in both."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# The pages outside docs/, and the files that pages link to.
OUTSIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "config/README.md",
    "config/config.schema.yaml",
    "config/prompts/README.md",
    "taqmlx/models/embedded_model/MODEL_CARD.md",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace docs/X, which MkDocs lists as X, by docs/X, and add the files outside docs/."""
    inside = [file for file in files if file.src_dir == config.docs_dir]
    for file in inside:
        files.remove(file)
    for path in (*(f"docs/{file.src_uri}" for file in inside), *OUTSIDE):
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files
