"""Checks of the trajectories: completeness, seals, values, schedule, and replay by the model."""

from collections import Counter
from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from taqmlx.checks.results import Report, Results, read_or_none
from taqmlx.mmdit.forward import bind_linears
from taqmlx.mmdit.sampling import bind_step
from taqmlx.mmdit.transformer import Transformer
from taqmlx.numerics import schedule
from taqmlx.numerics.quality import measure_relative_error
from taqmlx.planning import plan
from taqmlx.store.errors import UserError
from taqmlx.store.locations import Location
from taqmlx.store.seal import read_group_seal
from taqmlx.store.trajectories import IDENTITIES, find_faults, list_identities
from taqmlx.store.zarr_arrays import check_group, read_chunk

# RMS error of a replayed state relative to the RMS of the state. States are stored in fp16, which alone gives up to
# 3.3e-4 before and after a step together; another prompt gives at least 3.3e-3, even for the shortest of 100 steps.
REPLAY_TOLERANCE = 1e-3
START_TOLERANCE = 1e-3  # of a first state, absolute and relative: fp16 holds 4.9e-4
LEVEL_TOLERANCE = 1e-6


def check_counts(results: Results) -> Report:
    """Check that every shard exists with the expected number of trajectories, and that there are no others."""
    planned, present = dict.fromkeys(plan.list_shards(results.parameters)), set(results.folders)
    faults = [f"{results.store / name} is missing" for name in planned if name not in present]
    for name in results.folders:
        if name not in planned:
            faults.append(f"{results.store / name} is beyond the {len(planned)} shards of the configuration")
    count = 0
    for name in results.shards:
        rows, wanted = read_rows(results.store / name), results.select(name).rows
        count += len(rows)
        if len(rows) != len(wanted):
            faults.append(f"{results.store / name} has {len(rows)} trajectories instead of {len(wanted)}")
    detail = (
        f"{len(results.shards)} of {len(planned)} shards, {count} of {results.parameters.trajectories} trajectories"
    )
    return Report(detail, faults)


def read_rows(group: Location) -> list[list[int]]:
    """Trajectories listed in a shard's seal; empty without a valid seal."""
    try:
        rows: list[list[int]] = read_group_seal(group)["parameters"]["rows"]
        return rows
    except UserError:
        return []


def check_arrays(results: Results) -> Report:
    """Check the shapes and dtypes of the arrays against the configuration."""
    faults = []
    for name in results.shards:
        try:
            check_group(results.store / name, list(results.plan_layout(name).specs.values()))
        except UserError as error:
            faults.append(str(error))
    steps, shape = results.parameters.steps, results.model.LATENT_SHAPE
    return Report(f"xs float16 (rows, {steps}, {', '.join(map(str, shape))}), latents float32", faults)


def check_seals(results: Results) -> Report:
    """Check that every file exists and matches its seal."""
    faults, imported = [], 0
    for name in results.shards:
        found = list(find_faults(results.store / name, results.select(name).encode(), results.list_inputs(name)))
        faults += found
        imported += not found and "imported" in read_group_seal(results.store / name)["inputs"]
    for prompt in range(len(results.parameters.prompts)):
        results.conditioning.read([prompt])  # one by one: the encodings of a large model need not fit in memory
    detail = f"seals, crc32c of every chunk, sha256 of every trajectory and encoding; {imported} shards imported"
    return Report(detail, faults)


def check_values(results: Results) -> Report:
    """Check that all states and final latents are finite."""
    faults, count, unread = [], 0, 0
    for shard, row, number in results.iterate_rows():
        values = read_or_none(results, shard, row)
        if values is None:
            unread += 1
            continue
        for name, array in zip(("xs", "latents"), values, strict=True):
            count += array.size
            if bad := int((~np.isfinite(array)).sum()):
                where = f", first at step {np.argwhere(~np.isfinite(array))[0, 0]}" if name == "xs" else ""
                faults.append(f"{results.store / shard / name}: trajectory {number} has {bad} NaN or infinite{where}")
    left = f", {unread} trajectories cannot be read" if unread else ""
    return Report(f"{count:,} values{left}", faults)


def check_levels(results: Results) -> Report:
    """Check that sigmas decrease to 0 and that sigmas and timesteps match the schedule."""
    faults = []
    for name in results.shards:
        path, specs = results.store / name, results.plan_layout(name).specs
        try:
            sigmas, ts = (read_chunk(path, specs[key]) for key in ("sigmas", "ts"))
        except UserError as error:
            faults.append(str(error))
            continue
        faults += [f"{path}/{reason}" for reason in find_level_faults(sigmas, ts, results.sigmas)]
    first, last = results.sigmas[[0, -2]]
    return Report(f"{results.parameters.steps} levels from {first:g} to {last:.3g}, then 0, in every shard", faults)


def find_level_faults(sigmas: np.ndarray, ts: np.ndarray, wanted: np.ndarray) -> Iterator[str]:
    """Yield the faults of sigmas (steps + 1,) and timesteps (steps,)."""
    rising = np.flatnonzero(~(np.diff(sigmas) < 0))
    if len(rising):
        yield f"sigmas: not below the one before at step {rising[0] + 1}"
    if sigmas[-1] != 0:
        yield f"sigmas: the last is {sigmas[-1]:g}, not 0"
    if not np.allclose(sigmas, wanted, rtol=LEVEL_TOLERANCE, atol=LEVEL_TOLERANCE):
        yield "sigmas: not those of the configuration's schedule"
    if not np.allclose(ts, 1000 * wanted[:-1], rtol=LEVEL_TOLERANCE, atol=1000 * LEVEL_TOLERANCE):
        yield "ts: not those of the configuration's schedule"


def check_identities(results: Results) -> Report:
    """Check that every trajectory has the prompt and the seed given by its number."""
    faults = []
    for name in results.shards:
        path, job, specs = results.store / name, results.select(name), results.plan_layout(name).specs
        try:
            found = {key: read_chunk(path, specs[key]) for key in IDENTITIES}
            prompts = read_group_seal(path)["parameters"]["prompts"]
        except UserError as error:
            faults.append(str(error))
            continue
        for key, wanted in list_identities(job).items():
            if not np.array_equal(found[key], wanted):
                faults.append(f"{path / key} is {found[key].tolist()}, the configuration gives {wanted.tolist()}")
        for given, prompt in zip(prompts, job.prompts, strict=False):
            if given != prompt:
                faults.append(f"{path} was drawn for the prompt {given!r}, the configuration gives {prompt!r}")
    prompts, seed = len(results.parameters.prompts), results.parameters.seed
    return Report(f"trajectory j has prompt j mod {prompts} and seed {seed} + j", faults)


def check_starts(results: Results) -> Report:
    """Check that every trajectory starts from the noise of its seed."""
    faults, count = [], 0
    sigma = mx.array(results.sigmas[0])
    for shard, row, number in results.iterate_rows():
        values = read_or_none(results, shard, row)
        if values is None:
            continue
        noise = schedule.draw_noise([results.parameters.seed + number], *results.model.LATENT_SHAPE)
        wanted = np.array(schedule.start_latents(noise, sigma))[0]
        count += 1
        if not np.allclose(values[0][0], wanted, rtol=START_TOLERANCE, atol=START_TOLERANCE):
            faults.append(f"{results.store / shard}: trajectory {number} does not start from the noise of its seed")
    return Report(f"{count} first states are the noise of their seeds", faults)


def replay_steps(results: Results) -> Report:
    """Check that random steps, replayed by the model, give the stored states."""
    transformer = results.model.load_transformer()
    rows, steps = list(results.iterate_rows()), results.parameters.steps
    picks = pick_steps([shard for shard, _, _ in rows], steps, results)
    faults, errors = [], [0.0]
    for row, step in picks:
        shard, place, number = rows[row]
        values = read_or_none(results, shard, place)
        if values is None:
            faults.append(f"{results.store / shard}: trajectory {number} cannot be read")
            continue
        errors.append(replay_step(results, transformer, values, number, step))
        if not errors[-1] <= REPLAY_TOLERANCE:
            faults.append(
                f"{results.store / shard}: trajectory {number}, step {step}: the model gives a different state,"
                f" relative error {errors[-1]:.2g}: another prompt, another model, or changed states"
            )
    return Report(f"{len(picks)} steps, relative error at most {max(errors):.2g} of {REPLAY_TOLERANCE:g}", faults)


def pick_steps(shards: list[str], steps: int, results: Results) -> list[tuple[int, int]]:
    """Random (row, step) pairs, given the shard of each row: one from each shard before a second from any."""
    shuffled = np.random.default_rng(results.seed).permutation(len(shards) * steps)
    turns: Counter[str] = Counter()
    ranked = []
    for pick in shuffled.tolist():
        shard = shards[pick // steps]
        ranked.append((turns[shard], pick))
        turns[shard] += 1
    ranked.sort(key=lambda entry: entry[0])  # stable: random order within a turn
    return sorted(divmod(pick, steps) for _, pick in ranked[: results.picks])


def replay_step(
    results: Results, transformer: Transformer, values: tuple[np.ndarray, np.ndarray], number: int, step: int
) -> float:
    """Relative error of the replayed state after `step` of trajectory `number`, given its states and final latents."""
    linear = bind_linears(transformer)
    cs, cs_pooled = map(mx.array, results.conditioning.read([number % len(results.parameters.prompts)]))
    levels, cfg_scale = mx.array(results.sigmas), results.parameters.cfg_scale
    advance = bind_step(transformer, lambda sigma: linear, cs, cs_pooled, mx.zeros(1, mx.int32), levels, cfg_scale)
    states, latents = values
    found = np.array(advance(mx.array(states[step : step + 1].astype(np.float32)), step))[0]
    return measure_relative_error(found, states[step + 1] if step + 1 < len(states) else latents)
