"""Calibration sets: the effect of prompts, guidance and captured points on held-out pictures.

    python -m tools.benchmarks.calibration_sets --folder results/bench_calibration [--full]

One setting changes at a time around 256 prompts, guidance 3 and 1,024 captured points; --full combines all. Every set
has 6,400 points: 256 trajectories of 25 kept steps, or 1,024 trajectories of 6 kept steps for 1,024 prompts. A cell
rounds all layers with the bits of one search (4.5 per weight) by GPTQ, with the Hessians of its captured points, then
distils on all points. Pictures are of captions kept out of the model's training, at guidance 3. A repeated run resumes.
"""

import argparse
import time
from itertools import product
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.calibration_points import CalibrationPoints, split_runs
from taqmlx.mmdit.forward import bind_linears, bind_weights
from taqmlx.mmdit.sampling import bind_step, sample
from taqmlx.models import embedded
from taqmlx.numerics.bit_search import Option, search_sizes
from taqmlx.numerics.frontier import describe_quality
from taqmlx.numerics.gptq import round_with_gptq
from taqmlx.numerics.learned_codes import round_stored
from taqmlx.numerics.quality import measure_snr
from taqmlx.numerics.schedule import draw_noise, start_latents
from taqmlx.numerics.selection import choose_spread_points
from taqmlx.numerics.weight_grid import choose_grid
from taqmlx.planning import configuration, plan
from taqmlx.planning.bit_choices import PROBE_POINTS
from taqmlx.planning.layer_rules import FLOAT16
from taqmlx.planning.layers import list_linears
from taqmlx.planning.stages import MeasureCosts
from taqmlx.reconstruction import weight_costs
from taqmlx.reconstruction.block_assembly import read_weights, split_points
from taqmlx.reconstruction.distillation import State, learn
from taqmlx.reconstruction.layer_hessians import accumulate_hessians
from taqmlx.reconstruction.layer_rounding import choose_damping
from taqmlx.reconstruction.stages import WHOLE
from taqmlx.reconstruction.student import Student
from taqmlx.reconstruction.velocity_loss import Settings, Task
from taqmlx.runtime.entry import build_parser, run
from taqmlx.store.block_inputs import count_bytes, list_specs
from taqmlx.store.files import read_json, write_json
from taqmlx.training.captions import sample_scene, write_caption
from taqmlx.training.scoring import write_captions
from workflow_scripts.blocks.measure_costs import measure

PROMPTS, GUIDANCE, CAPTURED = (20, 64, 256, 1024), ("1.5", "3", "mixed"), (256, 1024, 4096)
CENTRE = (256, "3", 1024)
TRAJECTORIES, STEPS, POINTS = 256, 100, 6400
PICTURES, PICTURE_SEED, CAPTION_SEED = 128, 5_000_000, 777
ITERATIONS, BATCH = 150, 16
SIZE = 4.5
RULE = {"symmetric": False, "range": "search"}
LAYERS = list_linears(*plan.MODEL_BLOCKS["embedded"])
BATCHES = weight_costs.Batches(weight_costs.BATCH, PROBE_POINTS, WHOLE)


class Pictures(NamedTuple):
    """What pictures start from, and their final latents in full precision."""

    start: tuple[mx.array, ...]
    exact: np.ndarray


def write_training_captions(count: int) -> list[str]:
    """Captions of combinations that the model was trained on, of one object and of two in turn, all different."""
    rng, texts = np.random.default_rng(1), {}
    while len(texts) < count:
        texts[write_caption(rng, sample_scene(rng, 1 + len(texts) % 2)).text] = None
    return list(texts)


def record_points(model: Any, prompts: int, guidance: str) -> CalibrationPoints:
    """The points of a set: states of trajectories, each under its prompt, in float16."""
    trajectories = max(TRAJECTORIES, prompts)
    kept = np.linspace(0, STEPS - 1, POINTS // trajectories, dtype=int)
    cs, cs_pooled = embedded.encode_prompts(write_training_captions(prompts))
    prompt_of, exact = np.arange(trajectories) % prompts, bind_linears(model)
    scales = np.array([1.5, 3.0])[np.arange(trajectories) % 2] if guidance == "mixed" else float(guidance)
    scales = np.broadcast_to(scales, trajectories).astype(np.float32)
    sigmas, noise = embedded.compute_sigmas(STEPS), draw_noise(range(trajectories), *embedded.LATENT_SHAPE)
    states = np.zeros((trajectories, len(kept), *embedded.LATENT_SHAPE), np.float16)
    for rows in split_runs(np.arange(trajectories), weight_costs.BATCH):
        where = mx.array(prompt_of[rows])
        latents, weight = start_latents(noise[mx.array(rows)], sigmas[0]), mx.array(scales[rows])[:, None, None, None]
        advance = bind_step(
            model, lambda sigma: exact, cs[where], cs_pooled[where], mx.arange(len(rows)), sigmas, weight
        )
        for step in range(STEPS):
            if step in kept:
                states[rows, np.searchsorted(kept, step)] = np.array(latents)
            latents = advance(latents, step)
            mx.eval(latents)
    levels = np.tile(np.array(sigmas)[kept], trajectories).astype(np.float32)
    conditions = np.array(cs), np.array(cs_pooled)
    return CalibrationPoints(
        states.reshape(-1, *embedded.LATENT_SHAPE),
        levels * np.float32(1000),
        levels,
        np.repeat(prompt_of, len(kept)),
        lambda chosen: [part[chosen] for part in conditions],
    )


def search_widths(model: Any, points: CalibrationPoints) -> dict[str, Any]:
    """The choice of each layer at SIZE bits per weight."""
    settings = configuration.complete({}, configuration.load_schema())
    parameters = plan.select_stage(MeasureCosts, settings, [])
    weights, _ = read_weights(model, LAYERS)
    rules = {layer.name: RULE | {"bits": 4, "group_size": 64} for layer in LAYERS}
    costs, _ = measure(parameters, model, points, LAYERS, weights, rules, 3.0, BATCHES)
    options = {
        name: [Option(choice, cost, choice.bits_per_weight * weights[name].size) for choice, cost in own.items()]
        for name, own in costs.items()
    }
    found = search_sizes(options, SIZE * sum(weight.size for weight in weights.values()))["mixed"]
    return {name: option.choice for name, option in found.items()}


def draw_pictures(model: Any) -> Pictures:
    """Pictures of held-out captions in full precision."""
    pairs = zip(*(write_captions(CAPTION_SEED, PICTURES, objects) for objects in (1, 2)), strict=True)
    texts = [caption.text for pair in pairs for caption in pair][:PICTURES]
    noise = draw_noise(range(PICTURE_SEED, PICTURE_SEED + PICTURES), *embedded.LATENT_SHAPE)
    start = (*embedded.encode_prompts(texts), noise, embedded.compute_sigmas(28))
    exact = bind_linears(model)
    return Pictures(start, np.array(sample(model, lambda sigma: exact, *start, 3.0)))


def measure_pictures(model: Any, student: Student, learned: Any, pictures: Pictures) -> dict[str, Any]:
    """The quality of the pictures by what was learned, inputs unrounded."""
    weights, biases = student.restore_weights(learned), student.restore_biases(learned)
    mx.eval(weights, biases)
    linear = bind_weights(weights, biases)
    latents = np.array(sample(model, lambda sigma: linear, *pictures.start, 3.0))
    ratios = [measure_snr(*pair) for pair in zip(latents, pictures.exact, strict=True)]
    return describe_quality(np.array(ratios), 0)


def run_cell(model: Any, points: CalibrationPoints, captured: int, widths: dict, pictures: Pictures) -> dict[str, Any]:
    """Quality before and after distillation, seconds of one process, and bytes of captured rows."""
    began = time.process_time()
    steps = np.unique(points.sigmas, return_inverse=True)[1]
    chosen = choose_spread_points(steps, points.prompts, captured, 0)
    hessians = accumulate_hessians(model, LAYERS, (points.take(run) for run in split_runs(chosen, weight_costs.BATCH)))
    weights, biases = read_weights(model, LAYERS)
    grids, codes = {}, {}
    for layer in LAYERS:
        exact = np.array(weights[layer.name])
        grids[layer.name] = choose_grid(exact, RULE | widths[layer.name]._asdict())
        codes[layer.name] = round_with_gptq(
            exact, grids[layer.name], hessians[layer.input], choose_damping(layer, 0.01)
        )
    biases = {name: None if bias is None else round_stored(bias, FLOAT16) for name, bias in biases.items()}
    reach = {name: float(mx.sqrt(mx.square(b).mean())) + 1e-3 for name, b in biases.items() if b is not None}
    sigmas = np.ascontiguousarray(np.unique(points.sigmas)[::-1])
    student = Student(grids, FLOAT16, {}, biases, reach, {}, {}, sigmas)
    training, held_out = split_points(np.arange(len(points.xs)), points.prompts, 0.125, 0)
    levels = np.append(student.sigmas, np.float32(0))
    task = Task(lambda: model, model, student, points, levels, training, held_out, 2, BATCH, WHOLE)
    settings = Settings("codes", ITERATIONS, BATCH, 5e-4, 3e-3, 0.5, 0.0, 1, ITERATIONS, 3.0, 0, "float32")
    first = student.start(model, codes, True)
    state = learn(task, settings, State(0, dict(first), {}, []), lambda state: None, lambda loss: None)
    seconds = time.process_time() - began
    specs = list_specs(captured, 2, 6, 5, (16, 128), (16, 128))
    return {
        "gptq": measure_pictures(model, student, first, pictures),
        "distilled": measure_pictures(model, student, state.learned, pictures),
        "seconds": seconds,
        "captured_bytes": count_bytes(specs),
    }


def format_table(cells: list[dict[str, Any]]) -> str:
    """The cells as a Markdown table."""
    lines = [
        "| prompts | guidance | captured | GPTQ: median, dB | lowest 5 % | distilled: median [95 %] | lowest 5 % | s |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cell in cells:
        before, after = cell["gptq"], cell["distilled"]
        low, high = after["median"]["interval_95"]
        lines.append(
            f"| {cell['prompts']:,} | {cell['guidance']} | {cell['captured']:,} | {before['median']['value']:.1f} |"
            f" {before['p5']['value']:.1f} | {after['median']['value']:.1f} [{low:.1f}, {high:.1f}] |"
            f" {after['p5']['value']:.1f} | {cell['seconds']:.0f} |"
        )
    return "\n".join([*lines, ""])


def main(arguments: argparse.Namespace) -> None:
    arguments.folder.mkdir(parents=True, exist_ok=True)
    model, wanted = embedded.load_transformer(), list_cells(arguments.full)
    pictures, widths = draw_pictures(model), None
    for prompts, guidance in dict.fromkeys([CENTRE[:2], *(cell[:2] for cell in wanted)]):
        places = {
            captured: arguments.folder / f"{prompts}_{guidance}_{captured}.json"
            for own in wanted
            for captured in own[2:]
            if own[:2] == (prompts, guidance)
        }
        if widths is not None and all(place.exists() for place in places.values()):
            continue
        points = record_points(model, prompts, guidance)
        widths = widths or search_widths(model, points)
        for captured, place in places.items():
            if not place.exists():
                about = {"prompts": prompts, "guidance": guidance, "captured": captured}
                write_json(place, about | run_cell(model, points, captured, widths, pictures))
                print(place.stem, flush=True)
    cells = [read_json(arguments.folder / f"{p}_{g}_{c}.json") for p, g, c in wanted]
    (arguments.folder / "table.md").write_text(format_table(cells))
    print(format_table(cells))


def list_cells(full: bool) -> list[tuple[int, str, int]]:
    """Prompts, guidance and captured points of each cell."""
    cells = product(PROMPTS, GUIDANCE, CAPTURED)
    return [cell for cell in cells if full or sum(own != centre for own, centre in zip(cell, CENTRE, strict=True)) < 2]


if __name__ == "__main__":
    parser = build_parser(__doc__, "folder")
    parser.add_argument("--full", action="store_true", help="every combination")
    run(main, parser)
