"""CLIP embeddings of pictures for CMMD, from a local folder."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from taqmlx.planning import plan
from taqmlx.store.errors import UserError
from taqmlx.store.files import hash_file
from taqmlx.store.safetensors_header import find_coded, read_header

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BATCH, LARGEST_SIZE = 32, 1024


class ClipFeatures:
    """Embeddings by the vision model in a folder. Raises UserError if there is none."""

    def __init__(self, folder: str):
        os.environ["HF_HUB_OFFLINE"] = "1"
        from transformers import CLIPVisionModelWithProjection

        files = sorted(Path(folder).glob("*.safetensors"))
        if not files or not (Path(folder) / "config.json").is_file():
            raise UserError(f"clip: {folder} has no config.json and *.safetensors of a CLIP vision model; name one")
        for file in files:
            coded = find_coded(read_header(file))
            if name := next((name for name in coded if not name.endswith("position_ids")), None):
                raise UserError(f"clip: {file} stores {name} as {coded[name]}; use weights in fp16 or fp32")
        try:
            network, loading = CLIPVisionModelWithProjection.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise UserError(f"clip: {folder} has no CLIP vision model ({reason})") from None
        if missing := sorted(loading["missing_keys"]):  # missing weights would be initialised at random
            raise UserError(f"clip: {folder} lacks the weights of a CLIP vision model ({missing[0]}); name another")
        self.network, self.size = network.eval().requires_grad_(False), network.config.image_size
        if not 1 <= self.size <= LARGEST_SIZE:
            raise UserError(f"clip: {folder} takes pictures of {self.size} pixels; the maximum is {LARGEST_SIZE}")
        self.about = {
            "network": "CLIP",
            "weights_sha256": plan.fingerprint({file.name: hash_file(file) for file in files}),
            "resize": f"Pillow, bicubic, to {self.size} x {self.size}",
        }

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors (n, d) float32 of RGB pictures."""
        edge = (self.size, self.size)
        pixels = np.stack([np.asarray(image.resize(edge, Image.Resampling.BICUBIC)) for image in images]) / 255
        x = torch.from_numpy(((pixels - MEAN) / DEVIATION).astype(np.float32)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            rows = torch.cat([self.network(part).image_embeds for part in x.split(BATCH)])
        return torch.nn.functional.normalize(rows).numpy()
