"""Location of the workflow's own files: the Snakefile, rules, configurations, profiles and captions."""

from pathlib import Path

PARTS = ("Snakefile", "config", "profiles", "report", "rules")
_IN_WHEEL = Path(__file__).parents[1] / "workflow"
# In a clone they are beside the package; in a wheel, setup.py puts them inside it.
FOLDER = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parents[2]
