"""Unusual environments and names make no difference."""

import os
import subprocess
import sys

import pytest
import yaml

from taqmlx.store.conditioning import open_conditioning
from taqmlx.store.files import read_json

pytestmark = pytest.mark.slow
PROMPTS = ["a red circle", 'it\'s a "quoted" été', "$(touch pwned) `touch pwned` ; {x} <y>"]


@pytest.fixture
def odd(tmp_path):
    """odd(target): a run without a home, in the locale C, with standard input closed and names that need quotes."""
    folder = tmp_path / 'it\'s "odd" (1) & été'
    folder.mkdir()
    prompts, config = folder / "my 'prompts' \"2\".txt", folder / "my config.yaml"
    prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    values = {"results_dir": str(folder / "the results"), "prompts": str(prompts), "trajectories": 3}
    config.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "LANG", "PYTHONUTF8")}

    def call(target):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", str(folder / "the results" / target)]
        done = subprocess.run(
            [*command, "--configfile", str(config)],
            env=kept | {"LC_ALL": "C"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.close(0),
            timeout=600,
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")
        return folder / "the results"

    return call


def test_jobs_run_without_a_home_in_the_c_locale_with_odd_names_and_no_standard_input(odd):
    results = odd("conditioning.safetensors")
    assert read_json(results / "params" / "encode_prompts.json")["prompts"] == PROMPTS
    assert len(open_conditioning(results / "conditioning.safetensors", {"prompts": PROMPTS}).read([0, 1, 2])[0]) == 3
    assert not list(results.parent.rglob("pwned"))
