"""Combined meaning of the options of an original command: configuration values, and words for the current command.

A count of images, which here are trajectories, becomes a count of calibration points; a stride counts the steps of a
trajectory, all of which `generate_calibration_data` keeps.
"""

import re
from argparse import Namespace
from pathlib import Path

from compat.options import Change, Settings
from taqmlx.planning import plan
from taqmlx.planning.configuration import load_schema
from taqmlx.planning.layer_rules import UNQUANTIZED
from taqmlx.planning.layers import BLOCK_KINDS, name_block
from taqmlx.planning.step_choice import select_timesteps
from taqmlx.store.errors import UserError

SD3_REPOSITORY = "argmaxinc/mlx-stable-diffusion-3-medium"


def count_points(images: int, stride: int, config: Settings) -> int:
    """How many calibration points `images` trajectories have at every `stride`th step; 0 for those of all."""
    steps = select_timesteps(stride, range(config["steps"]))
    return 0 if images >= config["trajectories"] else images * len(steps)


def count_statistics(arguments: Namespace, config: Settings) -> Change:
    """Which points the statistics read."""
    return Change({"statistics_points": count_points(arguments.num_images, arguments.stride, config)})


def count_captured(arguments: Namespace, config: Settings) -> Change:
    """Which points the blocks are optimised on, at least one a step, and the parts they are captured in."""
    points = count_points(arguments.num_images, arguments.stride, config) or config["trajectories"] * config["steps"]
    parts = plan.list_stage_shards(config["capture_shards"])
    return Change(
        {"capture_points": max(points, config["selected_steps"])},
        tuple(f"{config['results_dir']}/block_inputs.zarr/{part}" for part in parts),
    )


def choose_learning(arguments: Namespace, config: Settings) -> Change:
    """Learned rounding with these bits, of these blocks or of all."""
    bits = {"weights": arguments.bits_w, "activations": arguments.bits_a}
    rules = {key: change_rules(config[key], bits=count) for key, count in bits.items() if count}
    rules = {key: changed for key, changed in rules.items() if changed != config[key]}
    # A search would give the weights other bits than these.
    rules |= {"bits_per_weight": None} if arguments.bits_w else {}
    blocks = [f"{config['results_dir']}/adaround/{name}.safetensors" for name in list_block_names(arguments.blocks)]
    return Change({"engine": "adaround"} | rules, tuple(blocks) or ("quantized",), needs_blocks=True)


def list_block_names(names: str | None) -> list[str]:
    """`mm3`, `mm_3` or `mm_block_3` as `mm_03`."""
    pattern = rf"({'|'.join(BLOCK_KINDS)})(?:_block)?_?(\d+)"
    found = [re.fullmatch(pattern, name.strip()) for name in (names or "").split(",") if name]
    if None in found:
        raise UserError(f"--blocks: {names}: name blocks as mm_03,mm_04")
    return [name_block(match[1], int(match[2])) for match in found]


def change_rules(rules: list[Settings], **values) -> list[Settings]:
    """Rules with other values; those that name adaLN layers stay."""
    return [rule if rule["bits"] == UNQUANTIZED or "adaLN" in rule["layers"] else rule | values for rule in rules]


def choose_range(arguments: Namespace, config: Settings) -> Settings:
    """What the largest code of an activation stands for."""
    rules = change_rules(config["activations"], range="p999" if arguments.use_hist_p999 else "absmax")
    return {} if rules == config["activations"] else {"activations": rules}


def choose_analysis(arguments: Namespace, config: Settings) -> Change:
    """The quantization config, or with --export-config the earliest programs' advice."""
    if not arguments.export_config:
        arguments.output = arguments.output or f"{config['results_dir']}/activations/quant_config.json"
    advice = (f"{config['results_dir']}/activations/quantization_config.json",) if arguments.export_config else ()
    targets = advice + (("quant_config",) if arguments.output else ())
    return Change(choose_range(arguments, config), targets, needs_blocks=bool(arguments.output))


def choose_tiers(arguments: Namespace, config: Settings) -> Change:
    """Thresholds if one is given, else what is measured."""
    arguments.output = arguments.output or f"{config['results_dir']}/activations/quant_config_multitier.json"
    given = {
        "plain": [arguments.a4_threshold, arguments.a6_threshold],
        "shifted": [arguments.shifted_a4_threshold, arguments.shifted_a6_threshold],
    }
    change = choose_range(arguments, config)
    if any(value is not None for pair in given.values() for value in pair):
        known = load_schema()["properties"]["multitier_thresholds"]["default"]
        pairs = {
            kind: [default if value is None else value for value, default in zip(pair, known[kind], strict=True)]
            for kind, pair in given.items()
        }
        change |= {"multitier_rule": "thresholds", "multitier_thresholds": pairs}
    return Change(change, needs_blocks=True)


def choose_plots(arguments: Namespace, config: Settings) -> Change:
    """With --plot-distributions those of the blocks too."""
    arguments.output_dir = arguments.output_dir or f"{config['results_dir']}/activations/plots"
    more = (f"{config['results_dir']}/plots/distributions.png",) if arguments.plot_distributions else ()
    return Change({}, more, needs_blocks=arguments.plot_distributions)


def choose_flat(arguments: Namespace, config: Settings) -> Change:
    """The model and the size of its pictures, from the size of its latents."""
    change = {}
    if arguments.latent_size:
        change |= {"height": 8 * arguments.latent_size[0], "width": 8 * arguments.latent_size[1]}
    if arguments.model_version not in (None, SD3_REPOSITORY):
        raise UserError(f"--model-version: {arguments.model_version} is unknown; {SD3_REPOSITORY} is known")
    if arguments.model_version or arguments.local_ckpt:
        change |= {"model": "sd3-medium", "weights_from": arguments.local_ckpt or SD3_REPOSITORY}
    return Change(change)


def choose_weights(arguments: Namespace, config: Settings) -> Change:
    """The model, and its weights alone or with the inputs of their layers, which a quantization config names too."""
    if arguments.quant_config and arguments.adaround_output:
        home = Path(arguments.quant_config).resolve().parent
        if Path(arguments.adaround_output).resolve() != home / "quantized":
            raise UserError(f"--quant-config: it was made with the weights in {home}; leave out --adaround-output")
    words = (
        ("--quant-config", arguments.quant_config)
        if arguments.quant_config
        else ("--weights", arguments.adaround_output)
    )
    if arguments.blocks:
        words += ("--blocks", ",".join(list_block_names(arguments.blocks)))
    if reads := plan.MODEL_KEYS[config["model"]]:
        words += ("--model", config["model"])
    if plan.WEIGHTS_FROM in reads:
        words += ("--weights-from", config["weights_from"], "--size", str(config["height"]))
        words += () if config["use_t5"] else ("--without-t5",)
    if "hardness" in reads:
        words += ("--hardness", *config["hardness"])
    return Change({}, words)


def place_manifest(arguments: Namespace, config: Settings) -> Change:
    """By default the manifest lies in the results."""
    arguments.output = arguments.output or f"{arguments.calib_dir}/manifest.json"
    return Change({})


def reject_scaling(arguments: Namespace, config: Settings) -> Change:
    """Raise UserError for another scale than the latents' own, which they are past already."""
    if arguments.scaling_factor not in (None, 1.5305):
        raise UserError("--scaling-factor: the latents are already unscaled, and are decoded unchanged")
    return Change({})
