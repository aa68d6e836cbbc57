"""Distil the whole quantized model: learn scales, zero points, biases, step sizes and codes from the velocity.

Resumes an interrupted run with the same parameters and inputs. The result is never worse than the initial blocks on
points of held-out prompts; the report beside it has both errors.
"""

import argparse
import math
from pathlib import Path

import mlx.core as mx
import numpy as np

from taqmlx.mmdit.calibration_points import read_points
from taqmlx.mmdit.footprint import check_distillation, choose_batch
from taqmlx.models.catalogue import find_model
from taqmlx.models.protocol import Model
from taqmlx.numerics.learned_codes import round_codes
from taqmlx.numerics.loss_curve import shorten_losses
from taqmlx.numerics.quality import to_decibels
from taqmlx.planning import block_plan, plan
from taqmlx.planning.documents import Inputs, ModelReport
from taqmlx.planning.stages import Distil
from taqmlx.reconstruction.block_assembly import split_points
from taqmlx.reconstruction.distillation import KINDS, State, learn, measure_held_out
from taqmlx.reconstruction.stages import choose_strategy
from taqmlx.reconstruction.state_arrays import pack_tree, unpack_tree
from taqmlx.reconstruction.student import Learned, assemble_student
from taqmlx.reconstruction.velocity_loss import Settings, Task
from taqmlx.runtime.entry import Progress, add_folds, build_parser, log, run
from taqmlx.store.block_file import LayerWeight, holds_block, read_block, write_block
from taqmlx.store.block_report import name_report, write_report
from taqmlx.store.calibration import Calibration, open_calibration
from taqmlx.store.errors import UserError
from taqmlx.store.parameters import read_parameters
from taqmlx.store.seal import Seal, check_origin, identify_work
from taqmlx.store.sealed_job import SealedJob

START, LEARNED = "blocks", "distilled"


def main(arguments: argparse.Namespace) -> None:
    parameters = read_parameters(Distil, arguments.params)
    record = block_plan.resolve_layers(parameters.encode()) | {"block": plan.WHOLE}
    calibration = open_calibration(arguments.calibration)
    model = find_model(parameters.model, parameters, folds=arguments.folds)
    origin = {"model": model.file_digests(), "calibration": calibration.seal["fingerprint"]}
    seals = check_files(arguments.blocks, parameters, origin)
    origin |= {"blocks": {seal["parameters"]["block"]: identify_work(seal) for seal in seals}}
    job = SealedJob(arguments.out, arguments.scratch, record, origin)
    with job.hold():
        if not job.is_finished(holds_block, replace=True):
            calibration.verify()
            settings = Settings.read(parameters, calibration.seal["parameters"]["cfg_scale"])
            distil(job, settings, *assemble_task(parameters, calibration, model, arguments.blocks))


def check_files(paths: list[Path], parameters: Distil, origin: Inputs) -> list[Seal]:
    """Seals of the files of all quantized blocks and of the layers outside the blocks.

    Raises UserError unless all are present, made with these rules from this model and, where recorded, this calibration
    set.
    """
    seals, rules = [read_block(path).seal for path in paths], block_plan.list_rules(parameters.model, parameters)
    for path, seal in zip(paths, seals, strict=True):
        known = {key: value for key, value in origin.items() if key in seal["inputs"]}
        check_origin(seal, path, {"model": parameters.model}, {"model": origin["model"]} | known)
        for name, rule in seal["parameters"]["layers"].items():
            if difference := plan.describe_difference(rule, rules[name]):
                stage = seal["parameters"]["stage"]
                raise UserError(f"{path} was made with other rules: {name}: {difference}; run {stage} again")
    found, wanted = [seal["parameters"]["block"] for seal in seals], plan.list_units(parameters.model)
    if found != wanted:
        raise UserError(f"--blocks: the files of {wanted} are needed in this order, and {found} are named")
    return seals


def assemble_task(
    parameters: Distil, calibration: Calibration, model: Model, blocks: list[Path]
) -> tuple[Task, Learned]:
    """The distillation task, and what is learned as the `blocks` have it.

    Raises UserError if the machine's memory is too small.
    """
    transformer, points = model.load_transformer(), read_points(calibration)
    conditions, latent_shape = plan.count_conditions(parameters.model), model.LATENT_SHAPE
    cs_shape, batch = calibration.specs["cs"].shape, min(parameters.distil_batch, len(points.xs))
    check_distillation(transformer, latent_shape, cs_shape, batch, parameters.distil)
    student, codes = assemble_student(transformer, [read_block(path) for path in blocks])
    indices = np.arange(len(points.xs))
    training, held_out = split_points(indices, points.prompts, parameters.held_out, parameters.seed)
    task = Task(
        load_teacher=model.load_transformer,
        model=transformer,
        student=student,
        points=points,
        levels=np.append(np.unique(points.sigmas)[::-1], np.float32(0)),
        training=training,
        held_out=held_out,
        conditions=conditions,
        batch_size=choose_batch(transformer, latent_shape, cs_shape, parameters.distil_batch),
        strategy=choose_strategy(transformer, latent_shape, cs_shape[2], conditions * batch),
    )
    return task, student.start(model.load_transformer(), codes, "codes" in KINDS[parameters.distil])


def distil(job: SealedJob, settings: Settings, task: Task, first: Learned) -> None:
    """Learn, keep the better of start and result on held-out points, and write report, file and seal."""
    state = continue_learning(job, task, settings, first)
    results = {START: first, LEARNED: state.learned}
    errors = measure_held_out(task, settings, results)
    if not math.isfinite(errors[START]):
        raise UserError("the velocities by the blocks on held-out points are not finite; check the model's weights")
    chosen = LEARNED if errors[LEARNED] < errors[START] else START
    weights, inputs, biases = task.student.export(results[chosen])
    described: ModelReport = {
        "chosen": chosen,
        "points": {"training": len(task.training), "held_out": len(task.held_out)},
        "errors": errors,
        "moved_codes": {name: measure_moved(layer, first["codes"][name]) for name, layer in weights.items()},
        "loss": shorten_losses(state.losses),
    }
    write_report(name_report(job.file), plan.WHOLE, described)
    write_block(job.file, weights, inputs, task.student.sigmas, job.parameters, job.inputs, biases)
    words = ", ".join(f"{name} {-to_decibels(error, 1):.2f} dB" for name, error in errors.items())
    log.info(f"distil: guided velocity held out {words}; kept: {chosen}, in {job.out}")


def measure_moved(layer: LayerWeight, first: mx.array) -> float:
    """Share of a layer's codes that differ from those it started with, soft or whole (out, in)."""
    return float(np.mean(layer.codes != np.array(round_codes(first, layer.grid.bits))))


def continue_learning(job: SealedJob, task: Task, settings: Settings, first: Learned) -> State:
    """Learn to the end, from the job's checkpoint, or from `first` if there is none."""
    state = open_learning(job, first)
    progress = Progress("distil", settings.iterations, "iterations", state.iteration)

    def save(state: State) -> None:
        numbers = {"iteration": state.iteration, "losses": state.losses}
        moving = {kind: state.learned[kind] for kind in KINDS[settings.kind]}
        job.save_learning(numbers, pack_tree({"learned": moving, "adam": state.adam}))

    return learn(task, settings, state, save, lambda loss: progress.advance(note=f"loss {loss:.4g}"))


def open_learning(job: SealedJob, first: Learned) -> State:
    """The state of an interrupted run, or the initial state at `first`."""
    saved = job.resume_learning("it is ignored, and distillation starts over")
    if saved is None:
        return State(0, dict(first), {}, [])
    numbers, arrays = saved
    trees = unpack_tree(arrays, {"learned": {}, "adam": {}})
    log.info(f"resuming distillation after {numbers['iteration']} iterations")
    return State(numbers["iteration"], first | trees["learned"], trees["adam"], numbers["losses"])


if __name__ == "__main__":
    parser = add_folds(build_parser(__doc__, "params", "calibration", "scratch", "out"))
    parser.add_argument("--blocks", type=Path, nargs="+", required=True, help="file of every block, then of `shared`")
    run(main, parser)
