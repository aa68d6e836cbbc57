"""Hard twin of the embedded model: the same function, with the outliers of a large transformer in its layer inputs.

The rows of `hardness.py` change the weights of the embedded model at load, in float64. They are rounded once, to fp32:
stored in fp16, the twin would differ by some 5e-4.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from taqmlx.models import embedded
from taqmlx.models.diffusionkit import config, mmdit
from taqmlx.models.hardness import ContextOutlier, fingerprint_rows, select_rows
from taqmlx.models.outliers import widen_mlps
from taqmlx.planning.sizes import HARD_MLP_RATIO

TRANSFORMER = embedded.TRANSFORMER | {"mlp_ratio": HARD_MLP_RATIO}


class HardModel:
    """The embedded model with the outliers of the parts named in `hardness`; implements `protocol.Model`."""

    PICTURE_SHAPE, LATENT_SHAPE = embedded.PICTURE_SHAPE, embedded.LATENT_SHAPE
    compute_sigmas, process_out = staticmethod(embedded.compute_sigmas), staticmethod(embedded.process_out)
    load_decoder = staticmethod(embedded.load_decoder)
    decode_latents = staticmethod(embedded.decode_latents)
    decode_processed = staticmethod(embedded.decode_processed)
    describe_dropped = staticmethod(embedded.describe_dropped)

    def __init__(self, hardness: Sequence[str]):
        self.rows = select_rows(hardness)

    def file_digests(self) -> dict[str, str]:
        """sha256 of each weight file the pictures depend on, by file name, and of the rows that change them."""
        return embedded.file_digests() | {"hardness": fingerprint_rows(self.rows)}

    def load_transformer(self) -> mmdit.MMDiT:
        """Load the MMDiT of the embedded model with its weights changed, fp32."""
        named = embedded.read_weights(embedded.FOLDER / "transformer.safetensors")
        weights = {name: np.array(value, np.float64) for name, value in named}
        widen_mlps(weights, HARD_MLP_RATIO * embedded.TRANSFORMER["hidden_size_override"])
        for row in self.rows:
            row.apply(weights)
        sizes = config.MMDiTConfig(**TRANSFORMER, dtype=mx.float32, float16_dtype=mx.float32, low_memory_mode=False)
        return embedded.fill_module(
            mmdit.MMDiT(sizes), [(name, mx.array(w.astype(np.float32))) for name, w in weights.items()]
        )

    def encode_prompts(self, prompts: list[str], negative_prompt: str = "") -> tuple[mx.array, mx.array]:
        """Embeddings as of `embedded.encode_prompts`, with the outliers of the part `context`."""
        cs, cs_pooled = embedded.encode_prompts(prompts, negative_prompt)
        for row in self.rows:
            if isinstance(row, ContextOutlier):
                cs, cs_pooled = row.scale(cs), row.scale(cs_pooled)
        mx.eval(cs, cs_pooled)
        return cs, cs_pooled

    def iterate_encodings(
        self, prompts: Sequence[str], negative_prompt: str, scratch: Path
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over the encodings of `encode_prompts` by prompt, in constant memory. `scratch` is not used."""
        for start in range(0, len(prompts), embedded.ENCODE_BATCH):
            encodings = self.encode_prompts(list(prompts[start : start + embedded.ENCODE_BATCH]), negative_prompt)
            yield from zip(*map(np.array, encodings), strict=True)
