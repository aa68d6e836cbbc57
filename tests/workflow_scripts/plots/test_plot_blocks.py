"""The command that plots the effect of quantization on blocks."""

import pytest

from taqmlx.planning import configuration, plan
from taqmlx.planning.block_plan import select_block
from taqmlx.store.block_report import write_report
from taqmlx.store.errors import UserError
from taqmlx.store.files import write_json
from taqmlx.store.sensitivity_file import write_sensitivity
from tests.plots.synthetic import build_report, build_sensitivity
from workflow_scripts.plots import plot_blocks

NAMES = ("distributions", "adaround_convergence", "block_errors", "layer_errors")


ADAROUND = {"adaround_warm_up": 0.2, "adaround_iterations": 200}


def write_parameters(path, engine):
    config = configuration.complete(ADAROUND | {"engine": engine}, configuration.load_schema())
    write_json(path, select_block(plan.select_parameters("optimise_block", config, []), path.stem))


def write_files(folder, engines, engine):
    paths = {"sensitivity": [], "reports": [], "params": []}
    for block in ("mm_00", "mm_01"):
        for kind in paths:
            paths[kind].append(folder / kind / f"{block}.json")
        content, arrays = build_sensitivity(block, 2)
        (folder / "sensitivity").mkdir(exist_ok=True)
        write_sensitivity(paths["sensitivity"][-1], content, arrays)
        write_report(paths["reports"][-1], block, build_report(block, ("image",), engines))
        write_parameters(paths["params"][-1], engine)
    listed = [
        f"--{kind}" if index == 0 else str(path) for kind in paths for index, path in enumerate(["", *paths[kind]])
    ]
    return plot_blocks.build_arguments().parse_args([*listed, "--out", str(folder / "plots")])


def test_every_figure_is_written_in_both_formats(tmp_path):
    arguments = write_files(tmp_path, ("rtn", "gptq", "adaround"), "adaround")
    plot_blocks.main(arguments)
    assert {path.name for path in arguments.out.iterdir()} == {
        f"{name}{suffix}" for name in NAMES for suffix in (".png", ".svg", ".sha256")
    }


def test_only_adaround_has_a_warm_up(tmp_path):
    write_parameters(tmp_path / "mm_00.json", "adaround")
    write_parameters(tmp_path / "mm_01.json", "gptq")
    assert plot_blocks.find_warm_up(tmp_path / "mm_00.json") == ("mm_00", 40)
    assert plot_blocks.find_warm_up(tmp_path / "mm_01.json") == ("mm_01", None)


def test_histograms_of_another_run_are_rejected(tmp_path):
    arguments = write_files(tmp_path, ("rtn",), "rtn")
    arguments.sensitivity[0].with_suffix(".safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="run measure_sensitivity again"):
        plot_blocks.main(arguments)
