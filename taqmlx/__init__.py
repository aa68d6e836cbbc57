"""Time-aware post-training quantization of diffusion transformers on MLX.

Importing the package loads a fast BLAS for MLX where its wheel brings a slow one, so it has to come before MLX. It
writes nothing.
"""

from taqmlx.runtime.blas import bind_fast_blas, keep_freed_memory, limit_threads

limit_threads()
bind_fast_blas()
keep_freed_memory()
