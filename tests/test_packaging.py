"""The package declares its dependencies, and its wheel works without a clone."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from contextlib import suppress
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from taqmlx.planning import workflow_files
from taqmlx.runtime import entry
from taqmlx.store.errors import UserError
from tests.support.workflow_run import FOLDS, WEIGHTS
from tests.support.working_copy import copy_project
from workflow_scripts import __main__ as commands
from workflow_scripts.__main__ import PROGRAMS
from workflow_scripts.tools import create_project

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULES = [path for folder in ("taqmlx", "workflow_scripts") for path in Path(folder).rglob("*.py")]
SCREEN = 30  # lines
SNAKEDEPLOY = shutil.which("snakedeploy")
NO_PACKAGE = {"taqmlx", "workflow_scripts", "diffusionkit"}  # DiffusionKit is installed on its own
# Every kind of job of the main job with little to do
SMALL = {"engine": "gptq", "trajectories": 2, "prompts_per_shard": 2, "steps": 4, "selected_steps": 2}
SMALL |= {"capture_points": 4, "weights": WEIGHTS, "search_points": 4, "search_probes": 1}
SMALL |= {"distil_iterations": 2, "distil_batch": 2, "folds": FOLDS}
# What snakedeploy writes, except where the release is
MODULE = """
configfile: "config/config.yaml"

module quantization:
    snakefile:
        "{snakefile}"
    config:
        config

use rule * from quantization
"""


def list_imports(path):
    """The top-level packages that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def name_packages(requirements):
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


def read_pins():
    lines = Path("requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(next(iter(pin.specifier)).version) for pin in pins}


def run_taqmlx(*words):
    return subprocess.run([sys.executable, "-m", "workflow_scripts", *words], capture_output=True, text=True)


@pytest.fixture
def say(monkeypatch, capsys):
    """say(words): what `taqmlx` prints in this process, on a screen of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["taqmlx", *words])
        with suppress(SystemExit):
            commands.main()
        return capsys.readouterr().out

    return call


def test_every_package_that_is_imported_is_declared():
    named = packages_distributions()
    declared = name_packages([*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)])
    for path in MODULES:
        for module in set(list_imports(path)) - set(sys.stdlib_module_names) - NO_PACKAGE:
            assert declared & set(map(canonicalize_name, named[module])), f"{path} imports {module}"


@pytest.mark.parametrize(
    "requirement", [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
)
def test_the_pinned_version_is_allowed_by_the_package(requirement):
    wanted = Requirement(requirement)
    assert wanted.specifier.contains(read_pins()[canonicalize_name(wanted.name)])


def test_packages_for_scores_and_training_are_an_extra():
    assert {"torch", "torchmetrics"} == name_packages(EXTRAS["torch"])
    assert not name_packages(PROJECT["dependencies"]) & {"torch", "torchmetrics"}


def test_the_fast_blas_is_required_on_linux_only():
    markers = [Requirement(line).marker for line in EXTRAS["cpu"]]
    for platform, wanted in (("linux", True), ("darwin", False)):
        assert {marker.evaluate(default_environment() | {"sys_platform": platform}) for marker in markers} == {wanted}


def test_the_version_is_defined_in_one_place():
    text = "".join(path.read_text(encoding="utf-8") for path in MODULES)
    assert not re.search(r"^__version__|^VERSION = [\"']", text, re.M)
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])


def test_taqmlx_lists_every_command_with_a_description(say):
    runnable = [path.stem for path in Path("workflow_scripts").glob("*/[!_]*.py")]
    assert all("__main__" in path.read_text(encoding="utf-8") for path in Path("workflow_scripts").glob("*/[!_]*.py"))
    _, _, *lines, _, _ = say("--all").splitlines()
    assert [line.split()[0] for line in lines] == sorted(runnable)
    assert all(len(line.split()) > 3 for line in lines)


def test_every_program_is_declared_and_is_its_command():
    scripts = {name.partition("-")[2]: place for name, place in PROJECT["scripts"].items() if name != "taqmlx"}
    assert list(scripts) == list(PROGRAMS)
    for name, place in scripts.items():
        module, _, attribute = place.partition(":")
        assert module == commands.__name__
        assert getattr(commands, attribute).args == (PROGRAMS[name],)


@pytest.mark.parametrize("command", PROGRAMS.values())
def test_the_help_of_a_program_fits_a_screen_and_it_has_a_version(say, command):
    shown = say(command, "--help")
    assert len(shown.splitlines()) <= SCREEN
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.split("\n\n")[0].endswith("[OPTION ...]")
    assert say(command, "--version") == f"taqmlx {PROJECT['version']}\n"


def test_the_help_of_taqmlx_has_the_programs_and_fits_a_screen(say):
    shown = say("--help").splitlines()
    assert len(shown) <= SCREEN
    assert max(map(len, shown[2:-2])) <= 80
    assert [line.split()[0] for line in shown[2:-2]] == [f"taqmlx-{name}" for name in PROGRAMS]


def test_a_command_of_taqmlx_is_the_module_of_that_name():
    by_hand = subprocess.run(
        [sys.executable, "-m", "workflow_scripts.trajectories.create_store", "--help"], capture_output=True, text=True
    )
    assert run_taqmlx("create_store", "--help").stdout == by_hand.stdout


def test_an_unknown_command_is_rejected_in_one_line():
    done = run_taqmlx("quantise")
    assert done.stderr == "error: 'quantise' is not a command; taqmlx --all lists them\n"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("command", "missing"), [("train_classifier", "torch"), ("generate --out x.png --prompt x", "diffusionkit")]
)
def test_a_missing_package_is_named_with_its_cure(command, missing):
    code = (
        f"import sys; from workflow_scripts.__main__ import main; sys.modules['{missing}'] = None;"
        f"sys.argv = ['taqmlx', *{command.split()}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = done.stderr.splitlines()[0]
    assert said.startswith(f"error: {missing} is not installed; run: {entry.INSTALL[missing]}")
    assert len(done.stderr.splitlines()) == done.returncode == 1


def test_the_version_of_diffusionkit_is_the_one_that_make_installs():
    assert entry.INSTALL["diffusionkit"].split()[-1] in Path("Makefile").read_text(encoding="utf-8").split()


def test_a_new_project_has_all_files_of_snakemake_with_their_permissions(tmp_path):
    parser = create_project.build_parser("", "out")
    create_project.main(parser.parse_args(["--out", str(tmp_path / "new")]))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(workflow_files.PARTS)
    assert os.access(tmp_path / "new/profiles/cluster-generic/submit", os.X_OK)


def test_a_new_project_overwrites_nothing(tmp_path):
    (tmp_path / "notes").touch()
    with pytest.raises(UserError, match="is not an empty folder; choose another --out"):
        create_project.main(create_project.build_parser("", "out").parse_args(["--out", str(tmp_path)]))


def copy_workflow(folder, *others):
    """The workflow's files without the package, in `folder`."""
    folder.mkdir(parents=True)
    for part in map(Path, (*workflow_files.PARTS, *others)):
        copy = shutil.copytree if part.is_dir() else shutil.copy2
        copy(part, folder / part)


@pytest.mark.slow
def test_the_workflow_can_be_a_module_of_another_workflow(tmp_path):
    copy_workflow(tmp_path / "release", "workflow")
    user = tmp_path / "user"
    shutil.copytree("config", user / "config")
    (user / "Snakefile").write_text(MODULE.format(snakefile=tmp_path / "release/workflow/Snakefile"))
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, cwd=user, env=environment, capture_output=True, text=True)
    assert re.search(r"^write_quant_config +1$", done.stdout, re.M), done.stdout + done.stderr


class Installation:
    """A wheel in an environment of its own, which borrows the packages it needs from the one that runs the tests.

    Commands run in `folder`, outside the clone.
    """

    def __init__(self, folder):
        self.folder = folder / "elsewhere"
        self.folder.mkdir()
        copy_project(folder / "clone", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        offline = ["--no-deps", "--no-index"]
        self.call(*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, folder / "clone")
        (wheel,) = folder.glob("*.whl")
        environment = folder / "environment"
        self.call(sys.executable, "-m", "venv", "--without-pip", environment)
        self.bin = environment / "bin"
        self.call(*pip, "--python", self.bin / "python", "install", *offline, wheel)
        # After the installation, so that pip does not take the clone's own package for one of this environment.
        self.packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": environment}))
        (self.packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def call(self, *words, folder=None, **environment):
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(
            list(map(str, words)),
            cwd=folder or self.folder,
            env=outside | environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run_python(self, code):
        return self.call(self.bin / "python", "-c", code).strip()


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    return Installation(tmp_path_factory.mktemp("installation"))


@pytest.mark.whole
def test_an_installed_wheel_runs_and_lists_its_commands(installation):
    place = installation.run_python("import taqmlx; print(taqmlx.__file__)")
    assert Path(place).is_relative_to(installation.packages)
    assert "optimise_block" in installation.call(installation.bin / "taqmlx", "--all")


@pytest.mark.whole
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_installed_program_says_its_version_and_its_options(installation, program):
    command = installation.bin / f"taqmlx-{program}"
    assert installation.call(command, "--version") == f"taqmlx {PROJECT['version']}\n"
    assert installation.call(command, "--help").startswith("usage: ")


@pytest.mark.whole
def test_an_installed_wheel_loads_the_schema_from_within(installation):
    code = "from taqmlx.planning import configuration as c; print(c.SCHEMA, c.complete({}, c.load_schema())['steps'])"
    place, steps = installation.run_python(code).split()
    assert Path(place).is_relative_to(installation.packages)
    assert Path(place).read_bytes() == Path("config/config.schema.yaml").read_bytes()
    assert steps == "100"


@pytest.mark.whole
def test_an_installed_wheel_has_every_file_of_the_package_and_of_the_workflow(installation):
    folders = {name: name for name in ("taqmlx", "workflow_scripts")}
    folders |= {part: f"taqmlx/workflow/{part}" for part in workflow_files.PARTS}
    for part, place in folders.items():
        files = [p for p in [Path(part), *Path(part).rglob("*")] if p.is_file() and p.suffix != ".pyc"]
        for path in files:
            assert (installation.packages / place / path.relative_to(part)).read_bytes() == path.read_bytes(), path


@pytest.mark.whole
def test_an_installed_wheel_quantizes_in_a_new_project(installation):
    command = installation.bin / "taqmlx"
    installation.call(command, "create_project", "--out", ".")
    (installation.folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    settings = ["--configfile", "config/quick.yaml", "small.yaml"]
    installation.call(installation.bin / "python", "-m", "snakemake", "--cores", "1", "quant_config", *settings)
    table = installation.call(command, "describe_quantization", "results/quick/quant_config.json")
    assert "|" in table


@pytest.mark.whole
@pytest.mark.skipif(SNAKEDEPLOY is None, reason="snakedeploy is not installed")
def test_a_snakedeploy_project_plans_all_and_runs_on_an_installed_wheel(installation, tmp_path):
    release = tmp_path / "hosts" / "owner" / "quantization"
    copy_workflow(release, "workflow", "LICENSE")
    identity = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "release"], ["tag", "v1.0.0"]):
        installation.call("git", *words, folder=release, **identity)
    # Git takes the folder for the host, so that nothing is downloaded.
    host = "https://github.com/"
    local = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{tmp_path}/hosts/.insteadOf",
        "GIT_CONFIG_VALUE_0": host,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    user = tmp_path / "user"
    url = f"{host}owner/quantization"
    installation.call(SNAKEDEPLOY, "deploy-workflow", url, user, "--tag", "v1.0.0", **local)
    assert {"config", "profiles", "workflow"} <= {path.name for path in user.iterdir()}
    snakemake = [installation.bin / "python", "-m", "snakemake", "--cores", "1"]
    planned = installation.call(*snakemake, "-n", "--quiet", "rules", folder=user, **local)
    assert re.search(r"^write_quant_config +1$", planned, re.M), planned
    target = "results/quick/conditioning.json"
    installation.call(*snakemake, target, "--configfile", "config/quick.yaml", folder=user, **local)
    assert (user / target).exists()
