"""Write the configuration and prompt file to import a dataset in the original layout, from its manifest."""

import argparse
from pathlib import Path

import yaml

from taqmlx.planning.documents import Config
from taqmlx.runtime.entry import build_parser, log, run
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_atomically
from taqmlx.store.manifest import Manifest, read_manifest


def main(arguments: argparse.Namespace) -> None:
    manifest = read_manifest(arguments.manifest)
    images = sorted(manifest["images"], key=lambda image: image["image_id"])
    if not images:
        raise UserError(f"{arguments.manifest} lists no image; restore the manifest")
    prompts = find_prompts([image["prompt"] for image in images])
    prompt_file = arguments.out.with_suffix(".txt")
    config = describe_config(manifest, images[0]) | {
        "results_dir": (Path("results") / arguments.out.stem).as_posix(),
        "prompts": prompt_file.as_posix(),
    }
    write_atomically(prompt_file, lambda partial: partial.write_text("\n".join(prompts) + "\n", encoding="utf-8"))
    write_atomically(arguments.out, lambda partial: partial.write_text(yaml.safe_dump(config), encoding="utf-8"))
    log.info(f"{len(images)} images, {len(prompts)} prompts: {arguments.out} and {prompt_file}")


def find_prompts(prompts: list[str]) -> list[str]:
    """The shortest run of prompts that repeats throughout. Raises UserError for a prompt that is not a single line."""
    for prompt in prompts:
        if not prompt or prompt != prompt.strip() or "\n" in prompt:
            raise UserError(f"the prompt {prompt!r} is empty or not a single line; a file of prompts cannot hold it")
    count = len(prompts)
    return next(prompts[:p] for p in range(1, count + 1) if all(prompts[i] == prompts[i % p] for i in range(count)))


def describe_config(manifest: Manifest, first: Config) -> Config:
    """Configuration keys given by the manifest; `first` is its first image."""
    steps = manifest["num_steps"]
    return {
        "trajectories": len(manifest["images"]),
        "steps": steps,
        "selected_steps": min(steps, 25),
        "cfg_scale": float(manifest["cfg_scale"]),
        "seed": first["seed"] - first["image_id"],
    }


if __name__ == "__main__":
    run(main, build_parser(__doc__, "manifest", "out"))
