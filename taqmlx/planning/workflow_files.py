"""Where the workflow's own files are: the Snakefile, rules, configurations, profiles and captions."""

from pathlib import Path

PARTS = ("Snakefile", "config", "profiles", "report", "rules")
_IN_WHEEL = Path(__file__).parents[1] / "workflow"
# In a clone they are beside the package; a wheel has them inside it, where setup.py puts them.
FOLDER = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parents[2]
