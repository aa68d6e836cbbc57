"""Time-aware post-training quantization of diffusion transformers on MLX.

Importing the package loads a fast BLAS where the MLX wheel ships a slow one, puts fused loops where MLX looks for them
(in the folder for temporary files, the only one it writes to), and keeps GPUs from multiplying fp32 matrices in TF32.
It must be imported before MLX.
"""

from taqmlx.runtime.blas import bind_fast_blas, keep_freed_memory, limit_threads
from taqmlx.runtime.fused_loops import place_loops
from taqmlx.runtime.products import forbid_tf32

forbid_tf32()
limit_threads()
bind_fast_blas()
place_loops()
keep_freed_memory()
