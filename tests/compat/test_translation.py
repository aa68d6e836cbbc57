"""Every documented command of the original programs translates to one of today's."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from compat.commands import COMMANDS
from compat.translation import translate
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json, write_plain_json

STATS = "--stats calibration_data/activations/layer_statistics.json"
COLLECT = "activations calibration_data/activations/layer_statistics.json"
CAPTURED = "calibration_data/block_inputs.zarr/00 calibration_data/block_inputs.zarr/01"
DRAW = "python -m workflow_scripts.tools.generate"
THOUSAND = {"trajectories": 1000, "steps": 50, "selected_steps": 50, "cfg_scale": 7.5, "seed": 42}
TEN = THOUSAND | {"trajectories": 10}
PAPER = {"trajectories": 256, "steps": 100, "selected_steps": 25, "cfg_scale": 1.5, "seed": 0}
ALL_OF_26 = {"statistics_points": 0, "statistics_steps": 2}
MEANWHILE = {"engine": "gptq"}
LEARNED = {"engine": "adaround"}

# The command as documented; current targets, or the current command; what is new in the configuration.
STARTING = [
    ("generate_calibration_data --num-images 1000 --num-steps 50", "exports manifest", THOUSAND),
    ("generate_calibration_data --num-images 1000 --num-steps 50 --resume", "exports manifest", THOUSAND),
    ("generate_calibration_data --num-images 1000 --resume", "exports manifest", THOUSAND),
    ("generate_calibration_data --num-images 10 --num-steps 50", "exports manifest", TEN),
    ("generate_calibration_data --num-images 10 --num-steps 50 --calib-dir test", "exports manifest", TEN),
    (
        "generate_calibration_data --num-images 1000 --num-steps 50 --calib-dir calibration_data"
        " --prompt-csv all_prompts.csv",
        "exports manifest",
        THOUSAND | {"prompts": "all_prompts.csv"},
    ),
    ("calibration_sample_generation.sample_cali_data --output DiT_cali_data.npz", "calibration", PAPER),
    (
        "calibration_sample_generation.sample_cali_data --num-fid-samples 8 --num-sampling-steps 20"
        " --num-selected-steps 5 --output dry_run_cali.npz",
        "calibration",
        PAPER | {"trajectories": 8, "steps": 20, "selected_steps": 5},
    ),
]
LATER = [
    ("collect_layer_activations --calib-dir calibration_data --num-images 1000", COLLECT, ALL_OF_26),
    (
        "collect_layer_activations --calib-dir calibration_data --num-images 100",
        COLLECT,
        ALL_OF_26 | {"statistics_points": 2600},
    ),
    (
        "collect_layer_activations --calib-dir calibration_data --num-images 5 --stride 2",
        COLLECT,
        ALL_OF_26 | {"statistics_points": 130},
    ),
    ("collect_layer_activations --num-images 5", COLLECT, ALL_OF_26 | {"statistics_points": 130}),
    (
        "collect_layer_activations --calib-dir calibration_data --num-images 5 --force",
        f"{COLLECT} + --forcerun collect_activations",
        ALL_OF_26 | {"statistics_points": 130},
    ),
    (f"analyze_activations {STATS}", "quant_config", MEANWHILE),
    (
        f"analyze_activations {STATS} --output calibration_data/activations/quant_config.json",
        "quant_config",
        MEANWHILE,
    ),
    (
        f"analyze_activations {STATS} --export-config quantization_config.json",
        "calibration_data/activations/quantization_config.json",
        {},
    ),
    (
        f"analyze_activations_multitier {STATS} --output calibration_data/activations/quant_config_multitier.json",
        "multitier",
        MEANWHILE,
    ),
    (
        "cache_adaround_data --calib-dir calibration_data --num-images 5 --stride 5",
        CAPTURED,
        {"capture_points": 55},
    ),
    (
        "cache_adaround_data --calib-dir calibration_data --num-images 5 --stride 5 --force",
        f"{CAPTURED} + --forcerun capture_blocks",
        {"capture_points": 55},
    ),
    (
        "adaround_optimize --adaround-cache calibration_data/adaround_cache --output quantized_weights",
        "quantized",
        LEARNED,
    ),
    (
        "adaround_optimize --adaround-cache calibration_data/adaround_cache --output quantized_weights"
        " --iters 20000 --batch-size 16 --bits-w 4 --bits-a 8",
        "quantized",
        LEARNED | {"adaround_iterations": 20000, "adaround_batch": 16, "bits_per_weight": None},
    ),
    (
        f"visualize_activations {STATS} --output-dir calibration_data/activations/plots"
        " --snapshot-steps 0 12 24 40 48 --quant-config calibration_data/activations/quant_config.json",
        "calibration_data/plots/heatmap_absmax.png",
        {"snapshot_steps": [0, 12, 24, 40, 48]},
    ),
    (
        f"visualize_activations {STATS} --plot-distributions",
        "calibration_data/plots/heatmap_absmax.png calibration_data/plots/distributions.png",
        MEANWHILE,
    ),
    ("decode_latents", "calibration_data/exports/images", {}),
]
ENTRIES = [
    (
        'load_adaround_model --adaround-output quantized_weights --prompt "a tabby cat on a table"'
        " --output-image quant_test.png --compare --diff-stats",
        f"{DRAW} --weights quantized_weights --prompt 'a tabby cat on a table' --out quant_test.png --steps 28"
        " --cfg 7.0 --seed 42 --compare --diff-stats",
    ),
    (
        "load_adaround_model --adaround-output quantized_weights --prompt cat --output-image quant_w4a8_actquant.png"
        " --quant-config calibration_data/activations/quant_config.json --compare",
        f"{DRAW} --quant-config calibration_data/activations/quant_config.json --prompt cat"
        " --out quant_w4a8_actquant.png --steps 28 --cfg 7.0 --seed 42 --compare",
    ),
    ("verify_calibration", "python -m workflow_scripts.tools.verify_dataset --results calibration_data"),
    (
        "verify_calibration --calib-dir calibration_data",
        "python -m workflow_scripts.tools.verify_dataset --results calibration_data",
    ),
    (
        "rebuild_manifest --calib-dir calibration_data",
        "python -m workflow_scripts.datasets.write_manifest --params calibration_data/params/collect_shard.json"
        " --trajectories calibration_data/trajectories.zarr --out calibration_data/manifest.json",
    ),
]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """The root of a clone, as far as a translation reads it."""
    (tmp_path / "config").symlink_to(Path("config").resolve())
    (tmp_path / "all_prompts.csv").write_text("prompt\na red circle\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recorded(clone):
    """The same after `generate_calibration_data` and `adaround_optimize`."""
    write_plain_json(Path("calibration_data/config.yaml"), THOUSAND | {"results_dir": "calibration_data"})
    write_json(
        Path("calibration_data/params/collect_shard.json"),
        {"steps": 50, "cfg_scale": 7.5, "seed": 42, "trajectories": 1, "prompts": ["a red circle"]},
    )
    Path("calibration_data/quant_config.json").touch()
    Path("calibration_data/quantized").mkdir()
    Path("calibration_data/activations").mkdir()
    Path("calibration_data/activations/quant_config.json").symlink_to("../quant_config.json")
    Path("quantized_weights").symlink_to("calibration_data/quantized")
    return clone


def call(line):
    name, *words = shlex.split(line)
    return translate(name, words)


def spell(found, results="calibration_data"):
    """The current command without what all have; behind a + what follows the configuration file."""
    head, middle = ["snakemake", "--cores", "1"], ["--configfile", f"{results}/config.yaml"]
    assert found.words[:3] == head
    place = found.words.index("--configfile")
    assert found.words[place : place + 2] == middle
    targets, more = found.words[3:place], found.words[place + 2 :]
    return shlex.join([*targets, *(["+", *more] if more else [])])


@pytest.mark.parametrize(("line", "targets", "settings"), STARTING, ids=[line for line, *_ in STARTING])
def test_a_command_can_start_a_dataset(line, targets, settings, clone):
    found = call(line)
    folder = line.split()[-1].removesuffix(".npz") if line.endswith((".npz", "test")) else "calibration_data"
    assert spell(found, folder) == targets
    assert found.changed == found.settings == settings | {"results_dir": folder}


@pytest.mark.parametrize(("line", "targets", "settings"), LATER, ids=[line for line, *_ in LATER])
def test_a_command_on_a_dataset_keeps_the_settings_and_adds_its_own(line, targets, settings, recorded):
    found = call(line)
    assert spell(found) == targets
    assert found.changed == settings
    assert found.settings == THOUSAND | {"results_dir": "calibration_data"} | settings


@pytest.mark.parametrize(("line", "command"), ENTRIES, ids=[line for line, _ in ENTRIES])
def test_some_commands_translate_to_an_entry(line, command, recorded):
    found = call(line)
    assert found.words == shlex.split(command)
    assert not found.changed


def read_table():
    """The rows of the table of commands in docs/migration.md: the original command, today's."""
    text = Path("docs/migration.md").read_text(encoding="utf-8").partition("| command of `src` | runs |")[2]
    return re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", text.partition("\n\n")[0], re.M)


@pytest.mark.parametrize(("line", "today"), read_table(), ids=[line for line, _ in read_table()])
def test_the_table_of_the_document_has_the_translations(line, today, recorded):
    if COMMANDS[line.split()[0]].starts:
        Path("calibration_data/config.yaml").unlink()
    assert call(line).words == shlex.split(today)


def test_the_table_of_the_document_has_every_command():
    assert {line.split()[0] for line, _ in read_table()} == set(COMMANDS)


def test_the_documented_files_are_linked_at_their_old_paths(recorded):
    def show(line):
        return {str(link): str(target) for link, target in call(line).links.items()}

    promised = ("samples", "latents", "images")
    exports = {f"calibration_data/{name}": f"calibration_data/exports/{name}" for name in promised}
    results, activations = "calibration_data", "calibration_data/activations"
    assert show("generate_calibration_data --num-images 1000") == exports
    assert show(f"analyze_activations {STATS}") == {f"{activations}/quant_config.json": f"{results}/quant_config.json"}
    assert show(f"analyze_activations_multitier {STATS}") == {
        f"{activations}/quant_config_multitier.json": f"{results}/quant_config_multitier.json"
    }
    assert show(f"analyze_activations {STATS} --export-config advice.json") == {
        "advice.json": f"{activations}/quantization_config.json"
    }
    assert show(f"visualize_activations {STATS}") == {f"{activations}/plots": f"{results}/plots"}
    assert show("adaround_optimize --adaround-cache calibration_data/adaround_cache") == {
        "quantized_weights": f"{results}/quantized"
    }
    assert show("calibration_sample_generation.sample_cali_data -o flat.npz") == {"flat.npz": "flat/DiT_cali_data.npz"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("generate_calibration_data --prompt-csv missing.csv --calib-dir new", "prompts: cannot read missing.csv"),
        ("generate_calibration_data --image-size 512 --calib-dir new", "height: the model embedded does not read it"),
        ("collect_layer_activations --calib-dir new", "new/config.yaml is missing; run generate_calibration_data"),
        ("analyze_activations", "--stats: name it"),
        ("rebuild_manifest --num-steps 30", "--num-steps: the trajectories have 50, not 30"),
        ("rebuild_manifest --prompt-csv missing.csv", "cannot read missing.csv"),
        ("decode_latents --scaling-factor 1", "--scaling-factor: the latents are already unscaled"),
        ("adaround_optimize --adaround-cache calibration_data/adaround_cache --blocks all", "name blocks as mm_03"),
        (
            "load_adaround_model --adaround-output other/weights --quant-config calibration_data/quant_config.json",
            "leave out",
        ),
        (
            "calibration_sample_generation.sample_cali_data --model-version sdxl",
            "--model-version: sdxl is unknown; argmaxinc/",
        ),
    ],
)
def test_an_impossible_option_is_rejected_in_one_line(line, reason, recorded):
    with pytest.raises((UserError, ValueError), match=reason) as raised:
        call(line)
    assert "\n" not in str(raised.value)


REJECTED = [(name, option) for name, command in COMMANDS.items() for option in command.options if option.rejected]


@pytest.mark.parametrize(("name", "option"), REJECTED, ids=[f"{name} {option.flag}" for name, option in REJECTED])
def test_a_rejected_option_names_what_to_use_instead(name, option, recorded):
    with pytest.raises(UserError, match=f"{option.flag}: .{{20,}}") as raised:
        translate(name, [option.flag, "1"])
    assert option.rejected in str(raised.value)


def test_options_without_a_meaning_are_accepted_with_a_line(recorded):
    assert call("generate_calibration_data --num-images 1000 --resume").lines == [
        "--resume: every command resumes from its last checkpoint"
    ]


def test_thresholds_select_the_threshold_rule(recorded):
    settings = call(f"analyze_activations_multitier {STATS} --a4-threshold 4").settings
    assert settings["multitier_rule"] == "thresholds"
    assert settings["multitier_thresholds"] == {"plain": [4, 10], "shifted": [5, 8]}


def test_percentiles_and_bits_become_rules(recorded):
    """Bits of weights are taken as they are, so that no search gives others."""
    rules = call(f"analyze_activations {STATS} --use-hist-p999").settings["activations"]
    assert [(rule["layers"], rule["bits"], rule.get("range")) for rule in rules] == [
        ("mm_*", 8, "p999"),
        ("uni_*", 8, "p999"),
        ("*adaLN_modulation", 16, None),
    ]
    settings = call("adaround_optimize --adaround-cache calibration_data/adaround_cache --bits-w 3").settings
    assert [(rule["layers"], rule["bits"]) for rule in settings["weights"]] == [("*", 3)]
    assert settings["bits_per_weight"] is None
    assert "bits_per_weight" not in call("adaround_optimize --adaround-cache calibration_data/adaround_cache").settings


def test_blocks_are_accepted_by_any_of_their_names(recorded):
    line = "adaround_optimize --adaround-cache calibration_data/adaround_cache --blocks mm3,mm_block_1"
    blocks = "calibration_data/adaround/mm_03.safetensors calibration_data/adaround/mm_01.safetensors"
    assert spell(call(line)) == blocks


def test_learned_blocks_replace_only_the_blocks_rounded_by_gptq_before(recorded):
    line = "adaround_optimize --adaround-cache calibration_data/adaround_cache"
    assert spell(call(line)) == "quantized"
    kept = THOUSAND | MEANWHILE | {"results_dir": "calibration_data"}
    Path("calibration_data/config.yaml").write_text(yaml.safe_dump(kept))
    assert spell(call(line)) == "quantized + --config overwrite=true"
    assert spell(call(f"analyze_activations {STATS}")) == "quant_config"
    Path("calibration_data/config.yaml").write_text(yaml.safe_dump(kept | LEARNED))
    assert spell(call(f"{line} --iters 7")) == "quantized"
    assert spell(call(f"{line} --iters 7 --force")) == "quantized + --config overwrite=true"


def test_another_model_is_chosen_by_its_configuration(clone):
    found = call("generate_calibration_data --configfile config/sd3-medium.yaml --image-size 512")
    assert {key: found.settings[key] for key in ("model", "height", "trajectories", "adaround_rate")} == {
        "model": "sd3-medium",
        "height": 512,
        "trajectories": 10,
        "adaround_rate": 0.001,
    }
    Path("my.safetensors").touch()
    flat = call("calibration_sample_generation.sample_cali_data --local-ckpt my.safetensors --latent-size 32 32")
    assert {key: flat.settings[key] for key in ("model", "weights_from", "height", "width")} == {
        "model": "sd3-medium",
        "weights_from": "my.safetensors",
        "height": 256,
        "width": 256,
    }


def test_finished_blocks_with_other_settings_stop_a_command_before_it_saves_its_settings(recorded):
    write_json(Path("calibration_data/adaround/mm_00.json"), {"parameters": {"engine": "adaround"}})
    with pytest.raises(UserError, match=r"mm_00 was made with other parameters .*; name another folder, or delete"):
        call(f"analyze_activations {STATS} --use-hist-p999")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module_of_a_few_lines(name):
    lines = Path(f"compat/{name.replace('.', '/')}.py").read_text().splitlines()
    assert f'    run("{name}")' in lines
    assert len(lines) < 8
