"""A small evaluation: two prompts, four pictures of two steps, and every stage run as a job."""

import json
from pathlib import Path

from taqmlx.planning import configuration, plan
from taqmlx.planning.variants import FULL_PRECISION, NOISE_FLOOR
from taqmlx.runtime.entry import build_parser
from taqmlx.store.files import read_json, write_json
from workflow_scripts.evaluation import (
    compare_variant,
    draw_reference,
    extract_features,
    generate_images,
    measure_growth,
    measure_size,
    score,
    write_evaluation_prompts,
)

SETTINGS = {
    "evaluation_variants": ["fp"],
    "evaluation_pictures": 6,
    "evaluation_steps": 2,
    "evaluation_shards": 2,
    "prompts": "config/prompts/embedded.txt",
}
STAGES = (
    "write_evaluation_prompts",
    "draw_reference",
    "generate_images",
    "extract_features",
    "compare_variant",
    "measure_growth",
    "measure_size",
    "score",
)


class Evaluation:
    """Its files lie in `folder`; `sources` are the files of each quantized variant."""

    def __init__(self, folder: Path, sources: dict[str, list[Path]], **changes):
        self.folder, self.sources = folder, sources
        config, prompts = configuration.load(SETTINGS | changes)
        self.config, self.shards = config, plan.list_stage_shards(config["evaluation_shards"])
        for stage in STAGES:
            write_json(folder / f"{stage}.json", plan.select_parameters(stage, config, prompts))

    @property
    def drawn(self) -> list[str]:
        """Everything that is drawn, full precision first."""
        return list(dict.fromkeys([FULL_PRECISION, *self.config["evaluation_variants"], *NOISE_FLOOR]))

    def locate(self, *names: str) -> str:
        return str(self.folder.joinpath(*names))

    def prepare(self) -> None:
        """Prompts, and real pictures."""
        for entry, stage, out in (
            (write_evaluation_prompts, "write_evaluation_prompts", "prompts.json"),
            (draw_reference, "draw_reference", "reference.json"),
        ):
            parser = build_parser("", "params", "out")
            entry.main(parser.parse_args(["--params", self.locate(f"{stage}.json"), "--out", self.locate(out)]))

    def generate(self, variant: str, shard: str) -> Path:
        """The seal of a shard's pictures."""
        out = self.folder / "images" / variant / shard
        arguments = ["--params", self.locate("generate_images.json"), "--prompts", self.locate("prompts.json")]
        arguments += ["--variant", variant, "--shard", shard, "--out", str(out)]
        arguments += ["--source", *map(str, self.sources.get(variant, []))]
        generate_images.main(generate_images.build_arguments().parse_args(arguments))
        return out.with_suffix(".json")

    def extract(self, name: str, shard: str, pictures: Path) -> None:
        arguments = ["--params", self.locate("extract_features.json"), "--pictures", str(pictures), "--shard", shard]
        arguments += ["--out", self.locate("features", name, f"{shard}.safetensors")]
        extract_features.main(extract_features.build_arguments().parse_args(arguments))

    def follow(self, variant: str) -> dict:
        """How the error of a variant grows."""
        arguments = ["--params", self.locate("measure_growth.json"), "--prompts", self.locate("prompts.json")]
        arguments += ["--variant", variant, "--out", self.locate("growth", f"{variant}.json")]
        arguments += ["--source", *map(str, self.sources.get(variant, []))]
        measure_growth.main(measure_growth.build_arguments().parse_args(arguments))
        return read_json(self.folder / "growth" / f"{variant}.json")

    def measure_size(self, variant: str) -> dict:
        """What a variant's weights take."""
        out = self.locate("sizes", f"{variant}.json")
        arguments = ["--params", self.locate("measure_size.json"), "--variant", variant, "--out", out]
        arguments += ["--source", *map(str, self.sources.get(variant, []))]
        measure_size.main(measure_size.build_arguments().parse_args(arguments))
        return json.loads(Path(out).read_text())

    def compare(self, variant: str) -> dict:
        """What a variant's pictures are worth."""
        out = self.locate("compared", f"{variant}.json")
        arguments = [f"--{name}={self.locate(name)}" for name in ("images", "features")]
        arguments += ["--params", self.locate("compare_variant.json"), "--prompts", self.locate("prompts.json")]
        parser = compare_variant.build_arguments()
        compare_variant.main(parser.parse_args([*arguments, "--variant", variant, "--out", out]))
        return json.loads(Path(out).read_text())

    def finish(self) -> None:
        """Everything but the comparisons and the scores."""
        self.prepare()
        for shard in self.shards:
            for variant in self.drawn:
                self.extract(variant, shard, self.generate(variant, shard))
            self.extract("real", shard, self.folder / "reference.json")
        for variant in self.config["evaluation_variants"]:
            self.measure_size(variant)
            if variant != "fp":
                self.follow(variant)

    def score(self, *options: str) -> dict:
        """The comparisons, and what is written in the end, with more options of the command."""
        for variant in self.drawn:
            self.compare(variant)
        arguments = ["--params", self.locate("score.json"), "--prompts", self.locate("prompts.json")]
        arguments += ["--folder", str(self.folder), "--out", self.locate("fid.json"), *options]
        score.main(score.build_arguments().parse_args(arguments))
        return json.loads((self.folder / "fid.json").read_text())
