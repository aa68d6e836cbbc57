"""Distil the whole quantized model: learn scales, zero points, biases, step sizes and codes from the velocity.

Resumes an interrupted run with the same parameters and inputs. The result is never worse than the initial blocks on
points of held-out prompts; the report beside it has both errors.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from taqmlx.mmdit.calibration_points import read_points
from taqmlx.mmdit.footprint import check_distillation, needs_recomputing
from taqmlx.models.catalogue import find_model
from taqmlx.models.protocol import Model
from taqmlx.numerics.loss_curve import shorten_losses
from taqmlx.numerics.quality import to_decibels
from taqmlx.planning import block_plan, plan
from taqmlx.reconstruction.block_assembly import split_points
from taqmlx.reconstruction.distillation import KINDS, Settings, State, Task, learn, measure_held_out
from taqmlx.reconstruction.state_arrays import pack_tree, unpack_tree
from taqmlx.reconstruction.student import Learned, assemble_student
from taqmlx.runtime.entry import Progress, build_parser, log, run
from taqmlx.store.block_file import BlockFile, holds_block, read_block, write_block
from taqmlx.store.block_report import name_report, write_report
from taqmlx.store.calibration import Calibration, open_calibration
from taqmlx.store.errors import UserError
from taqmlx.store.files import read_json
from taqmlx.store.seal import check_origin
from taqmlx.store.sealed_job import SealedJob

START, LEARNED = "blocks", "distilled"


def main(arguments: argparse.Namespace) -> None:
    parameters = block_plan.resolve_layers(read_json(arguments.params, stage="distil")) | {"block": plan.WHOLE}
    calibration = open_calibration(arguments.calibration)
    model = find_model(parameters["model"], parameters)
    origin = {"model": model.file_digests(), "calibration": calibration.seal["fingerprint"]}
    files = read_files(arguments.blocks, parameters, origin)
    origin |= {"blocks": {file.seal["parameters"]["block"]: file.seal["checksum"] for file in files}}
    job = SealedJob(arguments.out, arguments.scratch, parameters, origin)
    with job.hold():
        if not job.is_finished(holds_block, replace=True):
            calibration.verify()
            guidance = calibration.seal["parameters"]["cfg_scale"]
            distil(job, *assemble_task(parameters, calibration, model, files), guidance)


def read_files(paths: list[Path], parameters: plan.Parameters, origin: dict[str, Any]) -> list[BlockFile]:
    """The files of all quantized blocks and of the layers outside the blocks.

    Raises UserError unless all are present, made with these rules from this model and, where recorded, this calibration
    set.
    """
    files = [read_block(path) for path in paths]
    for path, file in zip(paths, files, strict=True):
        known = {key: value for key, value in origin.items() if key in file.seal["inputs"]}
        check_origin(file.seal, path, {"model": parameters["model"]}, {"model": origin["model"]} | known)
        for name, rule in file.seal["parameters"]["layers"].items():
            if difference := plan.describe_difference(rule, parameters["layers"][name]):
                stage = file.seal["parameters"]["stage"]
                raise UserError(f"{path} was made with other rules: {name}: {difference}; run {stage} again")
    found, wanted = [file.seal["parameters"]["block"] for file in files], plan.list_units(parameters["model"])
    if found != wanted:
        raise UserError(f"--blocks: the files of {wanted} are needed in this order, and {found} are named")
    return files


def assemble_task(
    parameters: plan.Parameters, calibration: Calibration, model: Model, files: list[BlockFile]
) -> tuple[Task, dict[str, np.ndarray]]:
    """The distillation task, and the blocks' codes. Raises UserError if the machine's memory is too small."""
    transformer, points = model.load_transformer(), read_points(calibration)
    student, codes = assemble_student(transformer, files)
    conditions = plan.count_conditions(parameters["model"])
    rows = conditions * min(parameters["distil_batch"], len(points.xs))
    sizes = transformer, model.LATENT_SHAPE, calibration.specs["cs"].shape[2], rows
    check_distillation(*sizes, parameters["distil"])
    training, held_out = split_points(
        np.arange(len(points.xs)), points.prompts, parameters["held_out"], parameters["seed"]
    )
    levels = np.append(np.unique(points.sigmas)[::-1], np.float32(0))
    recompute = needs_recomputing(*sizes)
    return Task(transformer, student, points, levels, training, held_out, conditions, recompute), codes


def distil(job: SealedJob, task: Task, codes: dict[str, np.ndarray], guidance: float) -> None:
    """Learn, keep the better of start and result on held-out points, and write report, file and seal.

    guidance: the guidance weight of the calibration set's trajectories.
    """
    settings = Settings.read(job.parameters, guidance)
    first = task.student.start(task.model, codes, "codes" in KINDS[settings.kind])
    state = continue_learning(job, task, settings, first)
    results = {START: first, LEARNED: state.learned}
    errors = {name: measure_held_out(task, settings, learned) for name, learned in results.items()}
    if not math.isfinite(errors[START]):
        raise UserError("the velocities by the blocks on held-out points are not finite; check the model's weights")
    chosen = LEARNED if errors[LEARNED] < errors[START] else START
    weights, inputs, biases = task.student.export(results[chosen])
    described = {
        "chosen": chosen,
        "points": {"training": len(task.training), "held_out": len(task.held_out)},
        "errors": errors,
        "moved_codes": {name: float(np.mean(layer.codes != codes[name])) for name, layer in weights.items()},
        "loss": shorten_losses(state.losses),
    }
    write_report(name_report(job.out), plan.WHOLE, described)
    write_block(job.out, weights, inputs, task.student.sigmas, job.parameters, job.inputs, biases)
    words = ", ".join(f"{name} {-to_decibels(error, 1):.2f} dB" for name, error in errors.items())
    log.info(f"distil: guided velocity held out {words}; kept: {chosen}, in {job.out}")


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
    parser = build_parser(__doc__, "params", "calibration", "scratch", "out")
    parser.add_argument("--blocks", type=Path, nargs="+", required=True, help="file of every block, then of `shared`")
    run(main, parser)
