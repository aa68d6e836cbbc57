"""Quantize one block: round its weights with the configured engine, choose its input step sizes, measure the errors.

Resumes an interrupted run with the same parameters and inputs. All candidates are compared on held-out points, which
none of them used, and the best one is written; the report beside it has the errors of all.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from taqmlx.models.catalogue import find_model
from taqmlx.models.protocol import Model
from taqmlx.numerics.footprint import estimate_learning
from taqmlx.numerics.input_quantizer import InputQuantizer
from taqmlx.numerics.loss_curve import shorten_losses
from taqmlx.numerics.stored_types import convert_values
from taqmlx.planning import block_plan, plan
from taqmlx.planning.documents import BlockReport, CandidateErrors, Inputs
from taqmlx.planning.layer_rules import find_shared_dtype
from taqmlx.planning.stages import BlockParameters
from taqmlx.reconstruction.block_task import Task, list_inputs, prepare
from taqmlx.reconstruction.candidates import Candidate, Learning, choose_candidate, list_candidates, measure_candidate
from taqmlx.reconstruction.state_arrays import pack_state, unpack_state
from taqmlx.runtime.entry import Progress, add_folds, build_parser, log, run
from taqmlx.store.block_file import BlockFile, LayerWeight, holds_block, read_block, write_block
from taqmlx.store.block_inputs import BlockInputs, identify_block, open_block_inputs
from taqmlx.store.block_report import name_report, write_report
from taqmlx.store.errors import UserError, report_unusable_values
from taqmlx.store.mixed_bits import identify_bits, overlay_bits, read_mixed_bits
from taqmlx.store.parameters import read_block_parameters
from taqmlx.store.preflight import check_memory
from taqmlx.store.seal import check_origin, identify_work
from taqmlx.store.sealed_job import SealedJob

LINEAR_WIDTHS = 24  # weight elements of a block's linears, in squares of its width: 12 per stream


def main(arguments: argparse.Namespace) -> None:
    parameters = read_block_parameters(arguments.params, arguments.out.stem)
    inputs = open_block_inputs(arguments.inputs)
    before = [read_block(path) for path in arguments.before]
    mixed = read_mixed_bits(arguments.mixed) if arguments.mixed else None
    model = find_model(parameters.model, parameters, folds=arguments.folds)
    origin = list_origin(parameters, inputs, before, model) | identify_bits(parameters.bits_per_weight, mixed)
    job = SealedJob(arguments.out, arguments.scratch, parameters.encode(), origin)
    with job.hold():
        if job.is_finished(holds_block, replace=arguments.replace):
            return
        check_room(parameters, inputs)
        with report_unusable_values(parameters.block):
            rules = overlay_bits(parameters.layers, mixed)
            task = prepare(parameters, rules, inputs, before, model.load_transformer(), model.LATENT_SHAPE)
            quantize_block(job, parameters, task)


def list_origin(parameters: BlockParameters, inputs: BlockInputs, before: list[BlockFile], model: Model) -> Inputs:
    """Digests of the block's inputs. Raises UserError if they do not belong together."""
    shared = identify_block(inputs, parameters, parameters.block, model.file_digests())
    blocks = plan.list_block_names(parameters.model)
    wanted = blocks[: blocks.index(parameters.block)] if parameters.block_inputs == "quantized" else []
    found = [file.seal["parameters"]["block"] for file in before]
    if found != wanted:
        raise UserError(f"--before: the files of blocks {wanted} are needed in this order, and {found} are named")
    for name, file in zip(found, before, strict=True):
        check_origin(file.seal, Path(name), {}, shared)
    return shared | {"before": [identify_work(file.seal) for file in before]}


def check_room(parameters: BlockParameters, inputs: BlockInputs) -> None:
    """Raise UserError if the machine's memory is too small to quantize a block of this width."""
    (images, width), (texts, _) = (inputs.shards[0].seal["inputs"][f"{name}_shape"] for name in ("image", "text"))
    rows = block_plan.count_rows(parameters.encode())
    needed = estimate_learning(LINEAR_WIDTHS * width**2, rows, len(inputs.points), images + texts, width)
    check_memory(needed, "quantizing a block", "lower adaround_batch or capture_points")


def quantize_block(job: SealedJob, parameters: BlockParameters, task: Task) -> None:
    """Run the candidates, keep the best on the held-out points, write the report, the block and its seal."""
    block, learning = parameters.block, open_learning(job, parameters.block)
    candidates = list_candidates(task.problem, task.grids, task.quantizers, parameters, learning)
    errors = [measure_candidate(task.problem, task.grids, candidate) for candidate in candidates]
    reject_nonfinite(block, candidates, errors)
    best = candidates[choose_candidate(candidates, errors)]
    write_report(name_report(job.file), block, describe(task, candidates, errors, best))
    weights = task.modulation | {name: LayerWeight(task.grids[name], codes) for name, codes in best.codes.items()}
    scale_dtype = find_shared_dtype(rule["weight"] for rule in parameters.layers.values())
    biases = {name: convert_values(np.array(bias), scale_dtype) for name, bias in best.biases.items()}
    inputs = list_inputs(task.problem, best.quantizers)
    write_block(job.file, weights, inputs, task.problem.sigmas, job.parameters, job.inputs, biases)
    for candidate, error in zip(candidates, errors, strict=True):
        log.info(f"{block} {candidate.engine}: {describe_errors(error['quantized_inputs'])} held out")
    log.info(f"{block}: {best.engine} is written to {job.out}")


def reject_nonfinite(block: str, candidates: list[Candidate], errors: list[CandidateErrors]) -> None:
    """Raise UserError naming the engine if an error on the held-out points is not finite."""
    for candidate, error in zip(candidates, errors, strict=True):
        found = [*error["quantized_inputs"].values(), *error["full_precision_inputs"].values()]
        if not all(map(math.isfinite, found)):
            raise UserError(
                f"{block}: the outputs by {candidate.engine} on held-out points are not finite;"
                " check the model's weights, and the captured rows"
            )


def open_learning(job: SealedJob, block: str) -> Learning:
    """Resume or start AdaRound."""
    state = unpack_state(job.resume_learning(f"it is ignored, and {block} starts over"))
    if state:
        log.info(f"resuming {block} after {len(state.losses)} iterations")
    total, done = block_plan.count_iterations(job.parameters), len(state.losses) if state else 0
    progress = Progress(block, total, "iterations", done)
    return Learning(
        state,
        lambda state: job.save_learning(*pack_state(state)),
        lambda loss: progress.advance(note=f"loss {loss:.4g}"),
    )


def describe(task: Task, candidates: list[Candidate], errors: list[CandidateErrors], best: Candidate) -> BlockReport:
    """The report: held-out errors relative to the power of the outputs by engine, learned changes, and loss curve."""
    rounded, problem = candidates[0].codes, task.problem
    return {
        "chosen": best.engine,
        "rows": {"training": len(problem.training), "held_out": len(problem.held_out)},
        "errors": {candidate.engine: error for candidate, error in zip(candidates, errors, strict=True)},
        "layers": {
            name: {
                "moved_from_nearest": float(np.mean(codes != rounded[name])),
                "migrated_channels": count_migrated(best.quantizers[problem.readers[name]]),
            }
            for name, codes in best.codes.items()
        },
        "loss": shorten_losses(candidates[-1].losses),
    }


def count_migrated(quantizer: InputQuantizer) -> int:
    """Number of channels with a migration above 1."""
    return 0 if quantizer.migration is None else int((quantizer.migration > 1).sum())


def describe_errors(error: dict[str, float]) -> str:
    """Signal-to-noise ratios of the streams in dB, in words."""
    return ", ".join(f"{name} {-10 * math.log10(max(value, 1e-30)):.2f} dB" for name, value in error.items())


if __name__ == "__main__":
    parser = add_folds(build_parser(__doc__, "params", "scratch", "out"))
    parser.add_argument("--inputs", type=Path, nargs="+", required=True, help="shards of block_inputs.zarr")
    parser.add_argument("--before", type=Path, nargs="*", default=[], help="quantized blocks before this one")
    parser.add_argument("--mixed", type=Path, help="mixed_bits.json with the layers' bits, if bits_per_weight is set")
    parser.add_argument("--replace", action="store_true", help="replace a block made with other parameters")
    run(main, parser)
