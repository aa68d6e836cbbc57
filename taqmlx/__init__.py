"""Time-aware post-training quantization of diffusion transformers on MLX.

Importing the package loads a fast BLAS where the MLX wheel ships a slow one, and keeps GPUs from multiplying fp32
matrices in TF32, so it must be imported before MLX. The import writes nothing.
"""

from taqmlx.runtime.blas import bind_fast_blas, keep_freed_memory, limit_threads
from taqmlx.runtime.products import forbid_tf32

forbid_tf32()
limit_threads()
bind_fast_blas()
keep_freed_memory()
