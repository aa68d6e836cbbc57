"""Every command in the documents is accepted by its program, and every link leads somewhere."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.support.documents import (
    DOCUMENTS,
    PAGES,
    PROGRAMS,
    RULES,
    check_settings,
    find_results,
    list_hidden_commands,
    parse_entry,
    parse_snakemake,
    read_commands,
)

COMMANDS = [command for path in DOCUMENTS for command in read_commands(path)]
PRESETS = ("quick", "hard", "hard-quick", "sd3-medium", "sd3.5-large", "flux-schnell")
CONFIGURATIONS = [None, *(f"config/{name}.yaml" for name in ("paper", *PRESETS))]
WIDEST = 128
LONGEST = 250
# Settings without which a target cannot be planned.
SETTINGS = {"mflux": ("layout=mflux", "scale_dtype=bfloat16")}
README = Path("README.md")
WIDE = Path("docs/migration.md")  # its table has whole commands in its cells


def select(program):
    """The commands of one program, each once."""
    return list({tuple(c.words): c for c in COMMANDS if c.words[0] == program}.values())


def list_anchors(path):
    """The anchors of a document's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def list_targets(words):
    """The targets of a line, its configuration file if there is one, and its folder of results."""
    if words[0] == "make":
        quick, made = words[1].startswith("results/quick/"), words[1].startswith("results/")
        return (
            [words[1]] if made else [],
            "config/quick.yaml" if quick else None,
            "results/quick" if quick else "results",
        )
    found = parse_snakemake(words)
    configs = [path for path in found.configfile or [] if Path(path).exists()]
    return found.targets, str(configs[0]) if configs else None, find_results(found)


def group_targets():
    """All targets of all documents by the configuration file they are asked for with, in the folder RESULTS."""
    groups = {}
    for command in [*select("snakemake"), *select("make")]:
        targets, config, folder = list_targets(command.words)
        files = {f"RESULTS{t.removeprefix(folder)}" if t.startswith(folder) else t for t in targets}
        groups.setdefault(config, set()).update(t for t in files if t.startswith("RESULTS/") or t in RULES)
    return groups


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_line_of_a_command_block_is_checked(command):
    assert command.words[0] in PROGRAMS
    assert command.is_marked or not command.needs_weights


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_no_command_is_hidden_in_another_kind_of_block(path):
    assert not list_hidden_commands(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", select("snakemake"), ids=str)
def test_snakemake_accepts_the_line_and_the_configuration_its_settings(command):
    found = parse_snakemake(command.words)
    assert found.targets or found.unlock or found.dryrun or found.report
    assert all(target in RULES or target.startswith(find_results(found)) for target in found.targets)
    assert all(Path(path).suffix == ".yaml" for path in found.configfile or [])
    check_settings(found)


@pytest.mark.parametrize("command", select("make"), ids=str)
def test_make_has_the_target(command):
    makefile = Path("Makefile").read_text(encoding="utf-8")
    target = "results/%" if command.words[1].startswith("results/") else command.words[1]
    assert re.search(rf"^{re.escape(target)}:", makefile, re.M)
    assert all(re.search(rf"^{word.split('=')[0]} \?=", makefile, re.M) for word in command.words[2:])


@pytest.mark.parametrize("command", select("python"), ids=str)
def test_the_entry_accepts_the_options(command, monkeypatch):
    assert command.words[1] == "-m"
    parse_entry(monkeypatch, command.words)


def test_an_upload_takes_a_repository_and_a_folder():
    """An upload itself needs an account."""
    program = Path(sysconfig.get_path("scripts")) / "hf"
    plain = os.environ | {"NO_COLOR": "1", "COLUMNS": "120"}
    done = subprocess.run([program, "upload", "--help"], capture_output=True, text=True, env=plain, check=True)
    assert "hf upload [OPTIONS] REPO_ID [LOCAL_PATH]" in done.stdout


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_every_target_can_be_planned(config, python, tmp_path):
    results = str(tmp_path / "results")
    targets = sorted(target.replace("RESULTS", results) for target in group_targets()[config])
    command = [
        python,
        "-m",
        "snakemake",
        *targets,
        "-n",
        "--quiet",
        "all",
        "--config",
        f"results_dir={results}",
        *(setting for target in targets for setting in SETTINGS.get(target, ())),
    ]
    command += ["--configfile", config] if config else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_configuration_file_of_a_target_is_planned():
    assert set(group_targets()) == set(CONFIGURATIONS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        place = path.parent / file if file else path
        assert place.exists(), target
        assert not anchor or anchor in list_anchors(place), target


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path != README], ids=str)
def test_every_document_is_named_in_the_readme(path):
    assert f"({path.as_posix()})" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_every_document_fits_a_screen(path):
    text = path.read_text(encoding="utf-8")
    typed = re.sub(r"<!-- numbers: .*?<!-- end -->|<!-- .*? -->", "", text, flags=re.S)
    assert path == WIDE or max(map(len, typed.splitlines())) <= WIDEST
    assert len(text.splitlines()) <= (150 if path not in PAGES else LONGEST)


@pytest.mark.parametrize("path", sorted(Path("docs/pictures").iterdir()), ids=str)
def test_every_picture_is_used_in_a_document(path):
    assert any(f"pictures/{path.name})" in document.read_text(encoding="utf-8") for document in DOCUMENTS)


@pytest.mark.parametrize("path", sorted(Path("config").glob("*.yaml")), ids=str)
def test_every_configuration_is_described(path):
    assert f"`{path.name}`" in Path("config/README.md").read_text(encoding="utf-8")
