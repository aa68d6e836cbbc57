"""The described widths follow from the files."""

from taqmlx.mmdit.variant_sizes import measure_variant
from taqmlx.models.catalogue import find_model
from taqmlx.runtime.summary import describe_results


def test_a_model_of_3_bits_is_described_as_such(study):
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
