"""Hostile configurations and command lines through Snakemake and the entries: no traceback, no code run."""

import os
import resource
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from taqmlx.planning import configuration, plan
from taqmlx.planning.stages import CollectShard
from taqmlx.runtime.entry import find_shard_index
from taqmlx.store.errors import UserError
from taqmlx.store.parameters import read_parameters
from tools.commands import find_module
from tools.faults import mutations
from workflow_scripts.prepare import write_block_parameters
from workflow_scripts.trajectories import collect_shard

pytestmark = [pytest.mark.slow, pytest.mark.whole]

ADDRESS_SPACE = 6 << 30  # bytes: what MLX and NumPy map, and no room for what a header may claim
LURES = "$(touch pwned) `touch pwned`; touch pwned & | > pwned 'a' \"b\" \\ %s {shard} <results> *"
FOLDER = "q'uo\"te $(touch pwned) `touch pwned`; & | \\back #é %s [1]*? ~x"


def run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run Python with little memory to the end; what it says is in `.stdout`."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE)),
    )


def run_snakemake(folder: Path, config: dict, *arguments: str) -> subprocess.CompletedProcess:
    """Snakemake on `config`."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return run("snakemake", "--cores", "1", "--nolock", *arguments, "--configfile", str(path))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"results_dir": "x/{shard}"}, "error: results_dir: "),
        ({"results_dir": "../x"}, "error: results_dir: ../x contains .."),
        ({"steps": 10**30}, "error: steps: a number of more than 64 bits"),
        ({"weights": [{"layers": "x" * 30, "bits": 4}] * 3000}, "error: the configuration has "),
    ],
)
def test_an_invalid_configuration_ends_planning_in_one_line(tmp_path, config, words):
    planned = run_snakemake(tmp_path, config, "-n", "calibration")
    assert planned.returncode == 1
    assert words in planned.stdout
    assert "Traceback" not in planned.stdout


def test_shell_syntax_in_names_and_prompts_is_text(tmp_path):
    prompts = tmp_path / "p'\" $(touch pwned);&\\.txt"
    prompts.write_text(f"a red circle\n{LURES}\n", encoding="utf-8")
    config = {"trajectories": 2, "steps": 2, "selected_steps": 2, "negative_prompt": f"{LURES}\n"}
    config |= {"results_dir": str(tmp_path / FOLDER), "prompts": str(prompts)}
    before = set(Path.cwd().iterdir())
    made = run_snakemake(tmp_path, config, "calibration", "manifest")
    assert made.returncode == 0, made.stdout
    assert (tmp_path / FOLDER / "DiT_cali_data.npz").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {FOLDER, prompts.name, "config.yaml"}
    assert {path.name for path in set(Path.cwd().iterdir()) - before} <= {".snakemake"}


def spoil_config(folder: Path) -> None:
    mutations.replace(folder / "quant_config.json", b'{"format":' * 100_000)


def lie_in_header(folder: Path) -> None:
    """A tensor of 2 TB, in a file of nothing."""
    path = folder / "quantized" / "model.safetensors"
    header = b'{"a.weight":{"dtype":"F32","shape":[524288,1048576],"data_offsets":[0,2199023255552]}}'
    mutations.replace(path, len(header).to_bytes(8, "little") + header)


def lie_in_length(folder: Path) -> None:
    path = folder / "quantized" / "model.safetensors"
    mutations.replace(path, (2**63 - 1).to_bytes(8, "little") + path.read_bytes()[8:])


def replace_by_pipe(folder: Path) -> None:
    path = folder / "quantized" / "model.safetensors"
    path.unlink()
    os.mkfifo(path)


READERS = {
    "generate": (
        "generate",
        "--prompt",
        "a dog",
        "--steps",
        "1",
        "--quant-config",
        "quant_config.json",
        "--out",
        "x.png",
    ),
    "verify_weights": ("verify_weights", "quantized"),
}


@pytest.mark.parametrize(
    ("reader", "spoil"),
    [
        ("generate", spoil_config),
        ("generate", replace_by_pipe),
        ("verify_weights", lie_in_header),
        ("verify_weights", lie_in_length),
    ],
)
def test_an_entry_exits_with_1_and_at_most_two_lines_in_bounded_memory(artefacts, tmp_path, reader, spoil):
    copy = tmp_path / "copy"
    shutil.copytree(artefacts["quantization config"].pristine, copy)
    spoil(copy)
    entry, *arguments = READERS[reader]
    done = run(find_module(entry), *arguments, cwd=copy)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert done.returncode == 1
    assert len(lines) <= 2, done.stdout
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in done.stdout
    assert not (copy / "x.png").exists()


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "-1", "0", "000/..", "1_0", "９９", "mm_99", "", "$(touch pwned)"]
)
def test_a_name_on_the_command_line_cannot_lead_to_another_shard(artefacts, tmp_path, name):
    params = artefacts["imported dataset"].pristine / "params" / "collect_shard.json"
    values = plan.encode_values("optimise_block", configuration.complete({}, configuration.load_schema()))
    with pytest.raises(UserError, match=r"^--shard .*: no such shard; choose one from 00 to 03$"):
        find_shard_index(name, 4)
    with pytest.raises(UserError, match=r"^--shard .*: no such shard; choose one from 000 to 001$"):
        collect_shard.select_shard(read_parameters(CollectShard, params), name)
    with pytest.raises(UserError, match=r"^--block .*: no such block; choose one from mm_00 to mm_04$"):
        write_block_parameters.main(Namespace(values=values, block=name, out=tmp_path / "x.json"))
    assert not list(tmp_path.iterdir())
