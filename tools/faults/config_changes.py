"""A configuration value changes between two runs: its readers rerun, and nothing costly reruns without overwrite."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from taqmlx.planning import configuration, plan, variants
from tools.faults.outcomes import Outcome
from tools.faults.relocations import CAMPAIGN
from tools.faults.working_copy import EVERYTHING, MAIN, WorkingCopy, compare_runs, compare_trees

# key: another value; the keys left out belong to another model, or say where and how a run is made.
CHANGED: dict[str, Any] = {
    "prompts": "config/prompts/other.txt",
    "negative_prompt": "blurred",
    "trajectories": 9,
    "steps": 21,
    "selected_steps": 4,
    "cfg_scale": 2,
    "seed": 1,
    "prompts_per_shard": 2,
    "batch_size": 8,
    "checkpoint_every": 4,
    "folds": [{"layers": "*", "kind": "centre"}],
    "fold_points": 7,
    "statistics_steps": 2,
    "statistics_points": 20,
    "statistics_shards": 1,
    "capture_points": 40,
    "capture_shards": 1,
    "weights": [{"layers": "mm_*", "bits": 5}],
    "bits_per_weight": 5,
    "search_points": 20,
    "search_probes": 4,
    "activations": [{"layers": "mm_*", "bits": 6}],
    "distil": "scales",
    "distil_iterations": 7,
    "distil_batch": 4,
    "distil_rate": 0.001,
    "distil_code_rate": 0.001,
    "distil_conditions": 0,
    "distil_sigma_power": 1,
    "distil_unroll": 2,
    "distil_checkpoint_every": 4,
    "engine": "gptq",
    "block_inputs": "quantized",
    "bias_correction": True,
    "adaround_patience": 1,
    "learning_dtype": "bfloat16",
    "held_out": 0.25,
    "gptq_damping": 0.02,
    "reconstruction": "separate",
    "adaround_start": "full_precision",
    "adaround_iterations": 13,
    "adaround_batch": 4,
    "adaround_rate": 0.01,
    "adaround_step_rate": 0.0001,
    "adaround_weight": 0.02,
    "adaround_warm_up": 0.3,
    "adaround_beta": [18, 2],
    "adaround_drop": 0.1,
    "adaround_checkpoint_every": 4,
    "ladder_pictures": 5,
    "ladder_steps": 4,
    "evaluation_variants": ["fp", "w4a8"],
    "evaluation_prompts": "config/prompts/other.txt",
    "evaluation_pictures": 9,
    "frontier_sizes": [5],
    "frontier_pictures": 5,
    "evaluation_steps": 4,
    "evaluation_cfg": 2,
    "evaluation_seed": 1000001,
    "evaluation_shards": 1,
    "ablation_pictures": 5,
    "reference_pictures": "results/ablation/reference",
    "inception": {"path": "inception.pth", "sha256": "0" * 64},
    "clip": "clip",
    "lpips": {"path": "alexnet.pth", "sha256": "0" * 64},
    "multitier_rule": "thresholds",
    "multitier_budget": 35,
    "multitier_thresholds": {"plain": [5, 9], "shifted": [5, 8]},
    "weight_budget": 30,
    "snapshot_steps": [0, 10],
}
# Those whose new results are made, and the old ones again: each touches little.
THERE_AND_BACK = ("snapshot_steps", "multitier_budget", "multitier_rule", "weight_budget")
# Those that are asked to replace finished work; what comes out is compared with a run from nothing.
REPLACED = ("cfg_scale", "capture_points")
DEFAULTS = configuration.complete({}, configuration.load_schema())
PROTECTED = {"collect_shard", "gather_calibration", "capture_blocks", "optimise_block"}
# Rules that read the parameters of a stage of another name, and those that write parameters or read the whole.
ALSO = {
    "sample_rung": {"sample_packed"},
    "measure_frontier": {"draw_frontier_reference", "draw_plain", "draw_size"},
    "extract_features": {"extract_reference_features"},
    "collect_shard": {"write_manifest", "export_manifest", "export_samples", "export_latents", "decode_latents"},
}
# Rules whose inputs a key decides.
CHOSEN = {
    "evaluation_variants": {"plot_pictures"},
    "frontier_sizes": {"measure_frontier"},
    "reference_pictures": {"extract_reference_features"},
}
# The ablation is the evaluation with another number of pictures.
SAME = {"ablation_pictures": "evaluation_pictures"}
ALWAYS = {
    "write_parameters",
    "write_study_parameters",
    "write_block_parameters",
    "write_rung_parameters",
    "write_report",
}


def plan_changes(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """Plan a run for every key: what is finished and costly is protected; of the rest the right jobs are planned."""
    after = list_followers(copy)
    (copy.folder / "clip").mkdir()
    for name in ("inception.pth", "alexnet.pth"):
        (copy.folder / name).touch()
    (copy.folder / "config/prompts/other.txt").write_text("\n".join(f"a blue square {n}" for n in range(8)) + "\n")
    text = copy.config.read_text(encoding="utf-8")
    before = yaml.safe_load((copy.folder / "config" / "config.yaml").read_text(encoding="utf-8")) | yaml.safe_load(text)
    for key, value in CHANGED.items():
        copy.configure(**{key: value})
        note = judge_plan(copy, list_readers(key, configuration.complete(before, configuration.load_schema())), after)
        copy.config.write_text(text, encoding="utf-8")
        yield Outcome(CAMPAIGN, "a changed configuration value, planned only", key, not note, note)


def list_readers(key: str, config: dict[str, Any]) -> set[str]:
    """The rules that read a key."""
    stages = {stage for stage in plan.STAGES if SAME.get(key, key) in plan.list_keys(stage, config)}
    # How many trajectories there are decides which prompts take part.
    stages |= plan.READS_PROMPTS if key in ("prompts", "trajectories") else set()
    readers = stages.union(CHOSEN.get(key, set()), *(ALSO.get(stage, set()) for stage in stages))
    return readers | ({"optimise_rung_block"} if is_read_by_a_rung(key, config) else set())


def is_read_by_a_rung(key: str, config: dict[str, Any]) -> bool:
    """Whether the blocks of some rung of the ladder or of the ablation have a key from the configuration."""
    rungs = [variants.change({}, rung) for rung in variants.RUNGS]
    return any(key not in changes and key in plan.list_keys("optimise_block", config | changes) for changes in rungs)


def list_followers(copy: WorkingCopy) -> dict[str, set[str]]:
    """By rule, the rules whose jobs read what its jobs wrote, and so on to the end."""
    makers = {name: job.rule for job in copy.list_jobs() for name in job.outputs}
    direct: dict[str, set[str]] = {}
    for job in copy.list_jobs():
        for name in job.inputs:
            direct.setdefault(makers.get(name, ""), set()).add(job.rule)

    def follow(rule: str) -> set[str]:
        found = {rule}
        while more := {after for known in found for after in direct.get(known, set())} - found:
            found |= more
        return found

    return {rule: follow(rule) for rule in set(makers.values())}


def judge_plan(copy: WorkingCopy, readers: set[str], after: dict[str, set[str]]) -> str:
    """What is wrong with what a run would do, or an empty string."""
    first = copy.run(*EVERYTHING, "-n", "--quiet", "rules")
    refusal = [line for line in first.stdout.splitlines() if line.startswith("error: ")]
    made = readers & after.keys()
    if made & PROTECTED:
        if first.returncode == 0 or len(refusal) != 1 or "overwrite=true" not in refusal[0]:
            return f"finished work is not protected: {first.stdout[-200:]}"
        first = copy.run(*EVERYTHING, "-n", "--quiet", "rules", "--config", "overwrite=true")
    if first.returncode:
        return f"ended with {first.returncode}: {first.stdout[-200:]}"
    planned = read_table(first.stdout) & after.keys()
    allowed = ALWAYS.union(*(after[rule] for rule in made))
    if strays := planned - allowed:
        return f"runs again without need: {', '.join(sorted(strays))}"
    return f"does not run again: {', '.join(sorted(made - planned))}" if made - planned else ""


def read_table(said: str) -> set[str]:
    """The rules in the table of jobs of a dry run."""
    pairs = [words for words in map(str.split, said.partition("\ntotal ")[0].splitlines()) if len(words) == 2]
    return {rule for rule, count in pairs if count.isdigit()}


def go_and_return(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """Change a value, run, change it back, run: the bytes are the old ones; files of the other value's own may stay."""
    before = copy.config.read_text(encoding="utf-8")
    for key in THERE_AND_BACK:
        copy.configure(**{key: CHANGED[key]})
        note = run_all(copy, ["report"])
        note = note or ("" if compare_runs(copy.read_tree(), wanted) else "changed nothing")
        copy.config.write_text(before, encoding="utf-8")
        note = note or run_all(copy, ["report"])
        tree = copy.read_tree()
        note = note or compare_runs({name: tree[name] for name in tree.keys() & wanted.keys()}, wanted)
        yield Outcome(CAMPAIGN, "a changed configuration value, then restored", key, not note, note)


def replace_results(copy: WorkingCopy, wanted: dict[str, str], rng: random.Random) -> Iterator[Outcome]:
    """Change a value that finished work was made with: rejected, then asked for, then back: no mixture comes out."""
    for key in REPLACED:
        used, fresh = (copy.duplicate_program(copy.folder / f"{name} {key}") for name in ("used", "fresh"))
        note = run_all(used, MAIN)
        before = used.read_tree()
        for each in (used, fresh):
            each.configure(**{key: CHANGED[key]})
        note = note or ("" if used.run(*MAIN).returncode and used.read_tree() == before else "not rejected")
        note = note or run_all(used, (*MAIN, "--config", "overwrite=true")) or run_all(fresh, MAIN)
        note = note or compare_trees(used.read_tree(), fresh.read_tree())
        used.configure(**{key: yaml.safe_load(copy.config.read_text(encoding="utf-8")).get(key, DEFAULTS[key])})
        note = note or run_all(used, (*MAIN, "--config", "overwrite=true")) or compare_trees(used.read_tree(), before)
        yield Outcome(CAMPAIGN, "a changed configuration value with overwrite, then restored", key, not note, note)


def run_all(copy: WorkingCopy, arguments: Sequence[str]) -> str:
    """Run to the end; what is wrong then, or an empty string."""
    done = copy.run(*arguments)
    return f"ended with {done.returncode}: {done.stdout[-300:]}" if done.returncode else ""
