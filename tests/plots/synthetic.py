"""Input files of the plots for a model of any depth."""

import numpy as np

from taqmlx.planning.folds import FOLDED_ROLES, list_sites
from taqmlx.planning.layers import list_linears, list_streams
from taqmlx.store.folds_file import Fold

STEPS = list(range(0, 100, 8))
SIGMAS = np.linspace(1, 0.01, len(STEPS)).tolist()
CHANNELS = 24


def list_inputs(depth):
    return sorted({layer.input for layer in list_linears(depth)})


def build_statistics(depth, seed=0):
    """The inputs of a statistics file and its arrays; a few text fc2 inputs reach very far."""
    rng, inputs, arrays = np.random.default_rng(seed), {}, {}
    for name in list_inputs(depth):
        reach = np.exp(rng.normal(1, 0.7)) * (100 if name.endswith("text.mlp.fc2") and rng.random() < 0.1 else 1)
        channels = rng.uniform(0.1, 1, CHANNELS)
        channels[0] = 3
        high = reach * channels * (1 + rng.uniform(0, 2) * np.linspace(0, 1, len(STEPS))[:, None])
        low = np.full_like(high, -0.17) if name.endswith("fc2") else -high
        absmax = np.abs([low, high]).max(axis=(0, 2)).tolist()
        inputs[name] = {"per_step": {"absmax": absmax, "negative_share": rng.uniform(0, 1, len(STEPS)).tolist()}}
        arrays |= {f"{name}/minimum": low.astype(np.float32), f"{name}/maximum": high.astype(np.float32)}
        if name.endswith("fc2"):
            arrays[f"{name}/shift"] = ((low + high) / 2).mean(axis=0).astype(np.float32)
    return inputs, arrays


def take_absmax(inputs):
    return {name: about["per_step"]["absmax"] for name, about in inputs.items()}


def name_blocks(depth):
    return [f"mm_{index:02d}" for index in range(depth)]


def build_report(block, streams, engines, seed=0):
    """A block's optimisation report; only AdaRound has losses."""
    rng = np.random.default_rng(seed)
    errors = {
        engine: {
            kind: {stream: float(rng.uniform(1e-4, 1e-2)) for stream in streams}
            for kind in ("full_precision_inputs", "quantized_inputs")
        }
        for engine in engines
    }
    loss = {"every": 5, "values": (5 * np.exp(-np.arange(40) / 10) + 1 + 0.1 * rng.random(40)).tolist()}
    return {"block": block, "errors": errors, "loss": loss if "adaround" in engines else {"every": 1, "values": []}}


def build_reports(depth, engines=("rtn", "gptq", "adaround")):
    ends = {stream.block for stream in list_streams(depth) if not stream.reaches_output}
    return [
        build_report(block, ("image",) if block in ends else ("image", "text"), engines, seed)
        for seed, block in enumerate(name_blocks(depth))
    ]


def build_sensitivity(block, depth, migration=True, seed=0):
    """A block's sensitivity and its arrays."""
    rng, weights, inputs = np.random.default_rng(seed), {}, {}
    described, arrays = {}, {}
    for layer in list_linears(depth):
        if layer.block != block:
            continue
        error = 10 ** rng.uniform(-5, -3)
        weights[layer.name] = {"errors": {str(bits): {"image": error * 4.0 ** (4 - bits)} for bits in (2, 4, 8)}}
        if layer.role == "adaLN":
            continue
        known = inputs.setdefault(
            layer.input, {"layers": [], "tiers": {"8": {"errors": rng.uniform(1e-5, 1e-4, 5).tolist()}}}
        )
        known["layers"].append(layer.name)
        if layer.role == "fc2":
            described[layer.name] = {"knot": 1, "sigma": 0.8, "bits": 8, "has_migration": migration} | add_histograms(
                arrays, layer.name, rng
            )
    content = {"block": block, "sigmas": SIGMAS[:5], "weights": weights, "inputs": inputs, "distributions": described}
    return content, arrays


def add_histograms(arrays, layer, rng):
    """Add a layer's histograms; returns the steps of its grids."""
    values = np.maximum(rng.normal(0, 2, 5000), -0.17)
    shifted = values - values.max() / 2
    stages = (
        ("before", "edges", values),
        ("shifted", "shifted_edges", shifted),
        ("migrated", "migrated_edges", shifted / 2),
    )
    for counts, edges, found in stages:
        heights, places = np.histogram(found, 256)
        arrays |= {f"{layer}/{counts}": heights.astype(np.float32), f"{layer}/{edges}": places.astype(np.float32)}
    return {"step": float(np.abs(shifted).max() / 127), "migrated_step": float(np.abs(shifted).max() / 254)}


def build_variant(title, snr, bits=4.5, widths=(8,), steps=12):
    """A variant's scores; `snr` None: nothing differs."""
    ends = [None, None] if snr is None else [snr - 1, snr + 1]
    curve = [None if snr is None else snr + steps - step for step in range(steps)]
    growth = {"median": curve, "interval_95": [[None, None] if x is None else [x - 1, x + 1] for x in curve]}
    return {
        "title": title,
        "paired": {"latent_snr_db": {"median": snr, "interval_95": ends}},
        "fid_to_full_precision": {"value": 0.1, "interval_95": [0.05, 0.2]},
        "error_growth": {
            "sigmas": np.linspace(1, 0, steps + 1).tolist(),
            "latent_snr_db": {"free_running": growth, "teacher_forced": growth},
        },
        "size": {"bytes": 10**6, "bits_per_weight": bits, "weights": 10**6, "activation_bits": list(widths)},
    }


def build_way(name, title, bits, quality, **more):
    """A way to quantize of the frontier, at `median` dB from full precision."""
    interval = {
        key: {"value": value, "interval_95": [value - 1, value + 1.5]}
        for key, value in (("median", quality), ("p5", 0.9 * quality - 9))
    }
    share = {"value": 0.25, "interval_95": [0.125, 0.5]}
    return interval | {"name": name, "title": title, "bits_per_weight": bits, "otherwise": share, "ratios": []} | more


def build_frontier(sizes=(3, 3.5, 4, 4.5, 5, 6)):
    """What nn.quantize gives, each width in three groups and ten splits, and ours 1.5 to 2 bits before it."""
    rng, ways = np.random.default_rng(0), []
    for bits in (2, 3, 4, 5, 6, 8):
        for group, off in ((32, 0.8), (64, 0), (128, -1.5)):
            size = bits + 32 / group
            ways.append(build_way(f"plain_{bits}_g{group}", f"nn.quantize, {bits} bits, groups of {group}", size,
                                  6 * (size - 2.5) + off))  # fmt: skip
    for place in range(10):
        size = rng.uniform(2.8, 7)
        ways.append(
            build_way(f"split_{place}", f"nn.quantize, split {place}", size, 6 * (size - 2.7) - rng.uniform(0, 6))
        )
    for size in sizes:
        gain = 6 * (size - 0.5) - 0.4 * size
        for name, title, loss in (
            ("w_a16", "learned, inputs unrounded", 0),
            ("w_a8", "learned, inputs of 8 bits", 0.4),
        ):
            saved = {"value": 1.75 - loss, "interval_95": [1.5, 2.25]}
            own = build_way(name, title, size - 0.005, gain - loss)
            ways.append(own | {"asked": size, "bits_saved": {"median": saved, "p5": saved}})
    return {"format": "frontier", "version": 1, "n": 256, "steps": 28, "cfg": 3.0, "ways": ways}


def build_full_precision():
    exact = build_variant("full precision", None, 32.0, (16,))
    del exact["paired"]
    return exact | {"error_growth": None, "fid_to_full_precision": {"value": 1e-13, "interval_95": [0.0, 1e-13]}}


def build_folds(depth, depth_unified=0, width=96, seed=0):
    """A fold of every kind at every input that can have one, and the rules of the inputs."""
    rng, sites = np.random.default_rng(seed), list_sites(depth, depth_unified)
    folds = []
    for kind, roles in FOLDED_ROLES.items():
        for site in (site for site in sites if site.role in roles):
            before, after = (np.exp(rng.normal(0, spread, width)).astype(np.float32) for spread in (2, 1))
            folds.append(Fold(site.name, kind, np.ones(width, np.float32), before, after, (1.0, rng.uniform(0.2, 1))))
    rule = {"bits": 8, "policy": "dynamic", "group_size": 32}
    return folds, dict.fromkeys((site.name for site in sites), rule)
