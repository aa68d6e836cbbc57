"""Imports go one way: each folder of the library imports only those below it, and no command."""

import ast
import re
from pathlib import Path

import pytest

LIBRARY, COMMANDS = Path("taqmlx"), Path("workflow_scripts")
# What each folder may import besides itself; CONTRIBUTING.md has the same table.
MAY_IMPORT = {
    "planning": set(),
    "numerics": {"planning"},
    "store": {"planning", "numerics"},
    "mmdit": {"planning", "numerics", "store"},
    "reconstruction": {"planning", "numerics", "store", "mmdit"},
    "models": {"planning", "numerics", "store", "mmdit"},
    "runtime": {"planning", "store"},
    "evaluation": {"planning", "numerics", "store", "models"},
    "plots": {"planning", "numerics", "store"},
    "report": {"planning", "numerics", "store", "runtime"},
    "checks": {"planning", "numerics", "store", "mmdit", "models"},
    "budgeting": {"planning", "numerics", "store", "mmdit", "models"},
    "training": {"planning", "numerics", "store", "mmdit", "models", "runtime"},
}


def list_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ([f"{node.module}.{name.name}" for name in node.names])
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def list_packages(path):
    """The packages outside the library that a module imports."""
    return {name.split(".")[0] for name in list_imports(path)}


def test_every_folder_has_its_row():
    assert {path.parent.name for path in LIBRARY.glob("*/__init__.py")} == MAY_IMPORT.keys()


def test_the_table_of_contributing_is_this_one():
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \|(.*)\|$", Path("CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    assert {folder: set(re.findall(r"`(\w+)`", below)) for folder, below in rows} == MAY_IMPORT


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_those_below_it(folder):
    for path in (LIBRARY / folder).rglob("*.py"):
        for name in list_imports(path):
            package, *rest = name.split(".")
            assert package not in (COMMANDS.name, "compat", "src", "tools", "tests"), f"{path} imports {name}"
            if package == LIBRARY.name and rest:
                assert rest[0] in MAY_IMPORT[folder] | {folder}, f"{path} imports {name}"


def test_planning_needs_the_standard_library_and_the_schema_alone():
    for path in (LIBRARY / "planning").rglob("*.py"):
        assert not list_packages(path) & {"mlx", "numpy", "zarr", "scipy", "torch", "diffusionkit"}, path


def test_a_command_imports_no_other():
    above = {COMMANDS.name, "compat", "src", "tools", "tests"}
    for path in COMMANDS.rglob("*.py"):
        assert not list_packages(path) & above, path


def test_no_tool_imports_a_test():
    for path in Path("tools").rglob("*.py"):
        assert "tests" not in list_packages(path), path


def test_the_original_programs_commands_read_the_configuration_and_compute_nothing():
    allowed = ("taqmlx.planning.", "taqmlx.store.errors.", "taqmlx.store.files.", "compat.")
    for path in Path("compat").rglob("*.py"):
        for name in list_imports(path):
            assert name.split(".")[0] not in (LIBRARY.name, COMMANDS.name) or name.startswith(allowed), path
            assert name.split(".")[0] not in ("mlx", "numpy", "zarr", "diffusionkit"), path


def test_only_models_and_training_import_diffusionkit():
    for path in [*LIBRARY.rglob("*.py"), *COMMANDS.rglob("*.py")]:
        if not {"models", "training", "train"} & set(path.parts):
            assert "diffusionkit" not in list_packages(path), path


def test_nothing_on_the_main_path_imports_torch():
    for path in [*LIBRARY.rglob("*.py"), *COMMANDS.rglob("*.py")]:
        if not {"training", "evaluation", "train"} & set(path.parts):
            assert not list_packages(path) & {"torch", "torchmetrics"}, path


def test_only_scores_and_features_of_other_networks_load_what_imports_torch():
    heavy = {path.stem for path in (LIBRARY / "evaluation").glob("*.py") if path.stem != "ladder_pictures"}
    modules = tuple(f"taqmlx.evaluation.{module}" for module in heavy)
    outside = [path for path in [*LIBRARY.rglob("*.py"), *COMMANDS.rglob("*.py")] if path.parts[1] != "evaluation"]
    outside += (COMMANDS / "evaluation").glob("*.py")
    users = {path.name for path in outside if any(name.startswith(modules) for name in list_imports(path))}
    assert users == {"compare_variant.py", "extract_features.py", "score.py"}
