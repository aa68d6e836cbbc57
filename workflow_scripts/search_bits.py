"""Search the bits of every layer's weight for the least error within a size, and measure it against uniform bits.

What is predicted is the relative squared error of the guided velocity, added up over layers; what is measured is how
near the ladder's pictures are to those of full precision, with weights rounded to nearest and nothing else.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workflow_scripts import plan
from workflow_scripts.entry import Progress, build_parser, log, run
from workflow_scripts.ladder_pictures import start_pictures
from workflow_scripts.mmdit.layers import list_linears
from workflow_scripts.mmdit.sampling import sample
from workflow_scripts.mmdit.weight_sensitivity import bind_rounded
from workflow_scripts.models.catalogue import find_model
from workflow_scripts.numerics.bit_search import WIDTHS, choose_bits, choose_uniform, write_rules
from workflow_scripts.numerics.layer_rules import find_rule
from workflow_scripts.numerics.quality import measure_snr
from workflow_scripts.store.conditioning import open_conditioning
from workflow_scripts.store.errors import UserError
from workflow_scripts.store.files import read_json, write_json
from workflow_scripts.store.sensitivity_file import read_sensitivities

FORMAT = {"format": "mixed-bits", "version": 1}


class Choices(NamedTuple):
    """By layer and width: the guided velocity's error, float64 (L, W), and the bits as stored, float64 (L, W).

    names: of the layers, L; elements (L,): of each weight.
    """

    names: list[str]
    elements: np.ndarray
    costs: np.ndarray
    sizes: np.ndarray

    def describe(self, chosen: np.ndarray) -> dict[str, float]:
        """`bits_per_weight` and the error `predicted` of the widths at `chosen` (L,)."""
        layers = np.arange(len(self.names))
        return {
            "bits_per_weight": float(self.sizes[layers, chosen].sum() / self.elements.sum()),
            "predicted": float(self.costs[layers, chosen].sum()),
        }

    def name_bits(self, chosen: np.ndarray) -> dict[str, int]:
        """The bits at `chosen` (L,), by layer."""
        return {name: WIDTHS[index] for name, index in zip(self.names, chosen, strict=True)}


def main(arguments: argparse.Namespace) -> None:
    parameters = read_json(arguments.params, stage="search_bits")
    sensitivities = read_sensitivities(arguments.sensitivity, parameters["model"])
    choices = list_choices(sensitivities, parameters["weights"])
    uniform, mixed = search(choices, parameters["mixed_bits_budget"])
    bits = {"uniform": choices.name_bits(uniform), "mixed": choices.name_bits(mixed)}
    measured = measure_pictures(parameters, arguments.conditioning, bits)
    described = {
        name: choices.describe(chosen) | {"latent_snr_db": measured[name]}
        for name, chosen in (("uniform", uniform), ("mixed", mixed))
    }
    layers = [layer.name for layer in list_linears(*plan.MODEL_BLOCKS[parameters["model"]])]
    content = {
        "model": parameters["model"],
        "budget": parameters["mixed_bits_budget"],
        "bits_per_weight": described["mixed"]["bits_per_weight"],
        "pictures": parameters["ladder_pictures"],
        "uniform": described["uniform"] | {"bits": WIDTHS[uniform[0]]},
        "mixed": described["mixed"] | {"layers": bits["mixed"]},
        "rules": write_rules(parameters["weights"], layers, bits["mixed"]),
        "origin": {block: plan.fingerprint(content) for block, content in sensitivities.items()},
    }
    write_json(arguments.out, FORMAT | content)
    report(content, arguments.out)


def list_choices(sensitivities: dict[str, dict[str, Any]], rules: list[dict[str, Any]]) -> Choices:
    """What there is to choose from, by the blocks' sensitivities.

    Raises UserError if a layer was measured under another rule than that of `rules`, or if there is no layer.
    """
    layers = {}
    for block, content in sensitivities.items():
        for name, sealed in content["parameters"]["layers"].items():
            if difference := plan.describe_difference(sealed["weight"], find_rule(rules, name)):
                raise UserError(
                    f"the sensitivity of {block} was measured by other rules: {name}: {difference};"
                    " run measure_sensitivity again"
                )
        layers |= content["weights"]
    if not layers:
        raise UserError("weights: all layers of the blocks have 16 bits, so there are none to choose; lower some")
    elements = np.array([layer["elements"] for layer in layers.values()], np.float64)
    costs, widths = (
        np.array([[layer["errors"][str(bits)][key] for bits in WIDTHS] for layer in layers.values()], np.float64)
        for key in ("velocity", "bits_per_weight")
    )
    return Choices(list(layers), elements, costs, widths * elements[:, None])


def search(choices: Choices, budget: float) -> tuple[np.ndarray, np.ndarray]:
    """The widths of the largest uniform choice of `budget` bits per weight at most, and of the best mixed one, (L,).

    Raises UserError if not even the smallest widths fit.
    """
    total = choices.elements.sum()
    least = choices.sizes.min(axis=1).sum() / total
    if least > budget:
        raise UserError(
            f"mixed_bits_budget: {budget:g} bits per weight are too few, with scales and zero points {least:.3g} is the"
            f" least possible; raise it to {np.ceil(least * 100) / 100:g} or more"
        )
    uniform = np.full(len(choices.names), choose_uniform(choices.sizes, budget * total))
    return uniform, choose_bits(choices.costs, choices.sizes, budget * total)


def measure_pictures(
    parameters: plan.Parameters, conditioning_path: Path, bits: dict[str, dict[str, int]]
) -> dict[str, dict[str, float]]:
    """The signal-to-noise ratios in dB of the pictures drawn with weights rounded to `bits` (by layer), by name."""
    model, rules = find_model(parameters["model"], parameters), parameters["weights"]
    transformer = model.load_transformer()
    start = start_pictures(parameters, model, open_conditioning(conditioning_path, parameters))
    count, steps = parameters["ladder_pictures"], parameters["ladder_steps"]
    progress = Progress("search_bits", (1 + len(bits)) * count * steps, "trajectory-steps")

    def draw(chosen: dict[str, int]) -> np.ndarray:
        linear_at = bind_rounded(
            transformer, {name: find_rule(rules, name) | {"bits": chosen[name]} for name in chosen}
        )
        return np.array(sample(transformer, linear_at, *start, parameters["cfg_scale"], progress.advance))

    reference = draw({})
    return {name: compare(draw(chosen), reference) for name, chosen in bits.items()}


def compare(latents: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """The signal-to-noise ratios in dB: the pictures' median, mean, 5 % quantile `p5`, and the worst."""
    ratios = [measure_snr(*pair) for pair in zip(latents, reference, strict=True)]
    low = np.quantile(ratios, 0.05, method="lower")
    return {
        "median": float(np.median(ratios)),
        "mean": float(np.mean(ratios)),
        "p5": float(low),
        "worst": min(ratios),
    }


def report(content: dict[str, Any], path: Path) -> None:
    """Say what was found."""
    for name in ("uniform", "mixed"):
        found = content[name]
        log.info(
            f"{name:<7} {found['bits_per_weight']:.3f} bits per weight, velocity error predicted"
            f" {found['predicted']:.4g}, latents measured {found['latent_snr_db']['median']:.2f} dB,"
            f" worst picture {found['latent_snr_db']['worst']:.2f} dB"
        )
    log.info(f"{len(content['mixed']['layers'])} layers in {len(content['rules'])} rules: {path}")


if __name__ == "__main__":
    parser = build_parser(__doc__, "params", "conditioning", "out")
    parser.add_argument("--sensitivity", type=Path, nargs="+", required=True, help="the sensitivity of every block")
    run(main, parser)
