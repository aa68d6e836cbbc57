"""What is said of widths follows from the files and not from what is usual."""

from taqmlx.mmdit.variant_sizes import measure_variant
from taqmlx.models.catalogue import find_model
from taqmlx.runtime.summary import describe_results


def test_three_bits_are_called_so(study):
    study.configure(
        weights=[{"layers": "mm_*", "bits": 3}, {"layers": "*adaLN_modulation", "bits": 7}],
        activations=[{"layers": "mm_*", "bits": 3, "policy": "dynamic"}],
        statistics_shards=1,
    )
    study.finish()
    transformer = find_model("embedded").load_transformer()
    sizes = {
        source: measure_variant(transformer, source, [path])
        for source, path in (
            ("weights", study.quantized / "model.safetensors"),
            ("quant_config", study.quant_config),
        )
    }
    assert {source: size["precision"] for source, size in sizes.items()} == {"weights": "W3A16", "quant_config": "W3A3"}
    said = describe_results(study.folder)[-1].strip()
    assert said == "weights are packed (3- and 8-bit); 3-bit activations are simulated"
