"""Autoencoder in torch for training, with the names of DiffusionKit's `VAEEncoder` and `VAEDecoder`, channels first."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from taqmlx.models.embedded import AUTOENCODER, SD3_SCALE, SD3_SHIFT
from taqmlx.training.recipe import ABSOLUTE_WEIGHT, EDGE_WEIGHT

LATENT_CHANNELS = AUTOENCODER["latent_channels"]
WIDTHS = tuple(AUTOENCODER["block_out_channels"])
GROUPS = AUTOENCODER["resnet_groups"]


class Attention(nn.Module):
    """Single-head self-attention over the pixels of a feature map."""

    def __init__(self, width: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(GROUPS, width)
        self.query_proj = nn.Linear(width, width)
        self.key_proj = nn.Linear(width, width)
        self.value_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.group_norm(x).flatten(2).transpose(1, 2)  # (b, c, h, w) -> (b, h w, c)
        y = functional.scaled_dot_product_attention(self.query_proj(y), self.key_proj(y), self.value_proj(y))
        return x + self.out_proj(y).transpose(1, 2).reshape(x.shape)


class ResnetBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.conv_shortcut = nn.Linear(width_in, width_out) if width_in != width_out else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        y = self.conv2(functional.silu(self.norm2(y)))
        if self.conv_shortcut is not None:
            x = functional.conv2d(x, self.conv_shortcut.weight[:, :, None, None], self.conv_shortcut.bias)
        return x + y


class ResolutionBlock(nn.Module):
    """Resnet blocks of one resolution, and the resize to the next: `downsample`, `upsample` or none."""

    def __init__(self, width_in: int, width_out: int, resize: str | None):
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(width_in, width_out)])
        self.downsample = nn.Conv2d(width_out, width_out, 3, stride=2) if resize == "down" else None
        self.upsample = nn.Conv2d(width_out, width_out, 3, padding=1) if resize == "up" else None

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        if self.downsample is not None:
            x = self.downsample(functional.pad(x, (0, 1, 0, 1)))
        if self.upsample is not None:
            x = self.upsample(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


def build_mid_blocks(width: int) -> nn.ModuleList:
    return nn.ModuleList([ResnetBlock(width, width), Attention(width), ResnetBlock(width, width)])


class Encoder(nn.Module):
    """Map pictures in [-1, 1], (b, 3, 64, 64), to latent means and log-variances, (b, 32, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        last = len(WIDTHS) - 1
        self.conv_in = nn.Conv2d(3, WIDTHS[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            ResolutionBlock(WIDTHS[max(i - 1, 0)], width, "down" if i < last else None)
            for i, width in enumerate(WIDTHS)
        )
        self.mid_blocks = build_mid_blocks(WIDTHS[-1])
        self.conv_norm_out = nn.GroupNorm(GROUPS, WIDTHS[-1])
        self.conv_out = nn.Conv2d(WIDTHS[-1], 2 * LATENT_CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in (*self.down_blocks, *self.mid_blocks):
            x = block(x)
        return self.conv_out(functional.silu(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """Map latents, (b, 16, 8, 8), to pictures in about [-1, 1], (b, 3, 64, 64). `up_blocks` run from last to first."""

    def __init__(self) -> None:
        super().__init__()
        last = len(WIDTHS) - 1
        self.conv_in = nn.Conv2d(LATENT_CHANNELS, WIDTHS[-1], 3, padding=1)
        self.mid_blocks = build_mid_blocks(WIDTHS[-1])
        self.up_blocks = nn.ModuleList(
            ResolutionBlock(WIDTHS[min(i + 1, last)], width, "up" if i > 0 else None) for i, width in enumerate(WIDTHS)
        )
        self.conv_norm_out = nn.GroupNorm(GROUPS, WIDTHS[0])
        self.conv_out = nn.Conv2d(WIDTHS[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in (*self.mid_blocks, *reversed(self.up_blocks)):
            x = block(x)
        return self.conv_out(functional.silu(self.conv_norm_out(x)))


class Autoencoder(nn.Module):
    """Encoder and decoder, with latents normalised to zero mean and unit variance per channel.

    The normalisation is a batch norm without parameters during training; `fold_latent_scale` then folds it into the
    adjacent convolutions, so that the exported encoder follows the convention of Stable Diffusion 3: x0 = (mean -
    0.0609) * 1.5305 has zero mean and unit variance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.latent_norm = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.02)
        open_trunk(self)

    def encode(self, pictures: Tensor) -> Tensor:
        """Normalised latents, (b, 16, 8, 8) fp32, of pictures in [-1, 1], (b, 3, 64, 64)."""
        return self.latent_norm(self.encoder(pictures)[:, :LATENT_CHANNELS].float())


def compare_pictures(restored: Tensor, pictures: Tensor) -> Tensor:
    """Squared error of pixels and of their differences to the next pixel (sharp edges), plus some absolute error."""
    error = restored - pictures
    edges = error.diff(dim=-1).square().mean() + error.diff(dim=-2).square().mean()
    return error.square().mean() + EDGE_WEIGHT * edges + ABSOLUTE_WEIGHT * error.abs().mean()


@torch.no_grad()
def open_trunk(model: Autoencoder) -> None:
    """Initialise resizes as average pooling or nearest-neighbour upsampling, so that colours pass from the start."""
    for module in model.modules():
        if isinstance(module, ResolutionBlock) and module.downsample is not None:
            module.downsample.weight.mul_(0.1)
            channels = torch.arange(module.downsample.out_channels)
            module.downsample.weight[channels, channels, :2, :2] += 0.25
        if isinstance(module, ResolutionBlock) and module.upsample is not None:
            module.upsample.weight.mul_(0.1)
            channels = torch.arange(module.upsample.out_channels)
            module.upsample.weight[channels, channels, 1, 1] += 1.0
        if isinstance(module, ResnetBlock) and module.conv_shortcut is not None:
            nn.init.orthogonal_(module.conv_shortcut.weight)


@torch.no_grad()
def fold_latent_scale(model: Autoencoder, noise: float) -> dict[str, Tensor]:
    """Return the weights `encoder.*` and `decoder.*` with the latent normalisation folded in (exact up to fp32
    rounding).

    With m, s the channel means and deviations: encoder mean = (z / 1.5305 + 0.0609) for z = (raw - m) / s, and the
    decoder's first convolution undoes 1.5305 and 0.0609. Its zero padding makes the shift of a border pixel differ, so
    the decoder is trained on (z / 1.5305 + 0.0609) from the start and needs no change. `noise` (in units of z) gives
    the constant log-variance of the posterior.
    """
    norm = model.latent_norm
    scale = 1.0 / (SD3_SCALE * torch.sqrt(norm.running_var + norm.eps))
    weights = {name: value.clone() for name, value in model.state_dict().items() if "latent_norm" not in name}
    weight, bias = weights["encoder.conv_out.weight"], weights["encoder.conv_out.bias"]
    weight[:LATENT_CHANNELS] *= scale[:, None, None, None]
    bias[:LATENT_CHANNELS] = (bias[:LATENT_CHANNELS] - norm.running_mean) * scale + SD3_SHIFT
    weight[LATENT_CHANNELS:] = 0.0
    bias[LATENT_CHANNELS:] = 2.0 * torch.log(torch.tensor(noise / SD3_SCALE))
    return weights
