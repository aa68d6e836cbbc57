"""Constants of the embedded model's training, with the values that were used."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One optimisation: Muon and AdamW, linear warm-up, cosine decay to zero, moving average of the weights."""

    steps: int
    batch: int
    learning_rate: float
    seed: int
    warmup: int = 200
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    checkpoint_every: int = 250  # steps


POOL_SEED = 1
POOL_SIZE = 200_000  # training scenes, half with one object, half with two
THREADS = 2

AUTOENCODER = Stage(steps=3_000, batch=16, learning_rate=3e-3, seed=2, warmup=50, ema_decay=0.995)
LATENT_NOISE = 0.1  # noise on the latents during autoencoder training, in units of their standard deviation
EDGE_WEIGHT = 1.0  # weight of the squared error of the picture's gradients
ABSOLUTE_WEIGHT = 0.05  # weight of the absolute error of the pixels

LATENT_POOL = 100_000  # number of pool pictures used to train the transformer
TRANSFORMER = Stage(steps=4_000, batch=192, learning_rate=2e-3, seed=3, warmup=100, ema_decay=0.998)
TIMESTEP_SHIFT = 3.0
CAPTION_DROPOUT = 0.1  # share of captions replaced by the empty one, for classifier-free guidance
UNKNOWN_WORDS = 0.01  # share of words replaced by an unknown word

CLASSIFIER = Stage(steps=1_500, batch=64, learning_rate=2e-3, seed=4, warmup=50, ema_decay=0.995)
PICTURE_NOISE = 0.1  # largest standard deviation of the noise on the classifier's pictures, which are in [-1, 1]

SCORE_SEED, SCORED_CAPTIONS = 5, 512  # captions of each kind: one object, two objects
CFG_SEED, CFG_CAPTIONS, CFG_WEIGHTS = 6, 96, (1.5, 2.0, 3.0, 4.0)  # guidance is chosen on separate captions
SCORED_STEPS = 50
REAL_PICTURES = 2_048  # newly drawn pictures for evaluation of the classifier and the autoencoder
GRID_SEED, GRID_COLUMNS, GRID_ROWS = 7, 6, 4
