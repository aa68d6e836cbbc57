"""Imports go one way: plain_files <- plan <- numerics, store <- mmdit <- models <- training, evaluation <- entries."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path("workflow_scripts")
MAY_IMPORT = {
    "plain_files": set(),
    "plan": {"plain_files"},
    "numerics": {"plan"},
    "store": {"plain_files", "plan", "numerics"},
    "mmdit": {"plan", "numerics", "store"},
    "models": {"plain_files", "plan", "user_files", "numerics", "store", "mmdit"},
    "training": {"plan", "numerics", "store", "mmdit", "models", "entry"},
    "evaluation": {"plan", "numerics", "store"},
    "plots": {"plan", "numerics", "store"},
    "checks": {"plan", "numerics", "store", "mmdit", "models"},
    "report": {"plan", "numerics", "store", "entry", "summary", "variants", "versions"},
}


def list_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ([f"{node.module}.{name.name}" for name in node.names])
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def list_modules(layer):
    module = PACKAGE / f"{layer}.py"
    return [module] if module.is_file() else sorted((PACKAGE / layer).rglob("*.py"))


def test_the_table_of_contributing_is_this_one():
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \|(.*)\|$", Path("CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    assert {layer: set(re.findall(r"`(\w+)`", below)) for layer, below in rows} == MAY_IMPORT


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_those_below_it(layer):
    for path in list_modules(layer):
        for name in list_imports(path):
            package, _, rest = name.partition(".")
            if package == PACKAGE.name and rest:
                assert rest.split(".")[0] in MAY_IMPORT[layer] | {layer}, f"{path} imports {name}"


def test_the_original_programs_commands_read_the_configuration_and_compute_nothing():
    allowed = {"block_plan", "configuration", "plan", "prompts", "numerics.layer_rules", "numerics.step_choice"}
    allowed |= {"store.errors", "store.files"}
    for path in Path("src").rglob("*.py"):
        for name in list_imports(path):
            package, _, rest = name.partition(".")
            assert package != PACKAGE.name or any(f"{rest}.".startswith(f"{module}.") for module in allowed), path
            assert package not in ("mlx", "numpy", "zarr", "diffusionkit"), path
    for path in PACKAGE.rglob("*.py"):
        assert not any(name.split(".")[0] == "src" for name in list_imports(path)), path


def test_only_models_and_training_import_diffusionkit():
    for path in PACKAGE.rglob("*.py"):
        if path.parts[1] not in ("models", "training"):
            assert not any(name.split(".")[0] == "diffusionkit" for name in list_imports(path)), path


def test_nothing_on_the_main_path_imports_torch():
    for path in PACKAGE.rglob("*.py"):
        if not {"training", "evaluation"} & set(path.parts) and not path.name.startswith(
            ("train_", "draw_", "score_", "encode_pool")
        ):
            assert not {name.split(".")[0] for name in list_imports(path)} & {"torch", "torchmetrics"}, path


def test_only_scores_and_features_of_other_networks_load_what_imports_torch():
    users = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if "evaluation" not in path.parts and any(f"{PACKAGE}.evaluation" in name for name in list_imports(path))
    }
    assert users == {"compare_variant.py", "extract_features.py", "score.py"}
