"""DeepLabv3+ with a cosine classifier over any timm encoder (arXiv 2309.09319, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP, SeparableConv2d
from torch import Tensor, nn

from training.config import ModelConfig
from training.errors import ConfigError, DataError
from training.pretrained import load_pretrained

EPS = 1e-12
STRIDE = 16  # inputs are padded to a multiple of this, so that both feature maps line up


def length(features: Tensor) -> Tensor:
    """|f| over the channels, (B, 1, h, w), at least 1e-12, in float32 or wider."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return wide.square().sum(1, keepdim=True).clamp_min(EPS * EPS).sqrt()


class CosineClassifier(nn.Module):
    """z_k = <f / |f|, w_k / |w_k|>: cosines in [-1, 1], no bias, no scale.

    The norm divides the K products, not the F features: the same number for a fifth of the time.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, channels))

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, K, h, w) cosines."""
        weight = F.normalize(self.weight, dim=1, eps=EPS)
        products = F.conv2d(features, weight[:, :, None, None])
        return products / length(features)


def _unit(channels_in: int, channels_out: int, separable: bool) -> nn.Sequential:
    conv: nn.Module = (
        SeparableConv2d(channels_in, channels_out, 3, padding=1, bias=False)
        if separable
        else nn.Conv2d(channels_in, channels_out, 1, bias=False)
    )
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())


class Head(nn.Module):
    """Separable ASPP, DeepLabv3+ decoder and cosine classifier.

    segmentation-models-pytorch's own decoder has one separable convolution after the join and one
    before it, and aligns corners; the paper's has both after the join and does not.
    """

    def __init__(self, low: int, high: int, outputs: int, config: ModelConfig) -> None:
        super().__init__()
        width = config.head_channels
        self.aspp = ASPP(high, width, config.atrous_rates, separable=True, dropout=config.dropout)
        self.low = _unit(low, config.low_level_channels, separable=False)
        self.fuse = nn.Sequential(
            _unit(width + config.low_level_channels, width, separable=True),
            _unit(width, width, separable=True),
        )
        self.classifier = CosineClassifier(width, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.kaiming_normal_(self.classifier.weight)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Encoder features at stride 4 and 16 -> point features (B, F, h, w) >= 0 at stride 4."""
        low, high = features
        context = F.interpolate(
            self.aspp(high), size=low.shape[-2:], mode="bilinear", align_corners=False
        )
        points: Tensor = self.fuse(torch.cat([context, self.low(low)], dim=1))
        return points


class SegmentationModel(nn.Module):
    """Images (B, 3, H, W), RGB in 0..255, uint8 or float -> cosine logits and point features."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, num_outputs: int, undefined: bool = False) -> None:
        super().__init__()
        self.config, self.num_outputs = config, num_outputs
        self.num_classes = num_outputs - undefined  # the undefined output is the last one
        self.encoder, channels = _encoder(config)
        self.head = Head(channels[2], channels[-1], num_outputs, config)
        pretrained = timm.get_pretrained_cfg(config.encoder)
        for name in ("mean", "std"):
            value = torch.tensor(getattr(pretrained, name)) * 255.0
            self.register_buffer(name, value.view(1, 3, 1, 1), persistent=False)
        if config.frozen_encoder:
            self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> SegmentationModel:
        """As nn.Module.train; a frozen encoder keeps its batch statistics."""
        super().train(mode)
        if self.config.frozen_encoder:
            self.encoder.eval()
        return self

    def encode(self, images: Tensor) -> list[Tensor]:
        """Feature maps at stride 4 and `output_stride`, of images padded to a multiple of 16 px."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise DataError(
                f"Images must have shape (B, 3, H, W), got {tuple(images.shape)}.",
                hint="Pass RGB images, channels first.",
            )
        height, width = images.shape[-2:]
        normal = (images.float() - self.mean) / self.std
        down, right = -height % STRIDE, -width % STRIDE
        if down or right:
            normal = F.pad(normal, (0, right, 0, down), mode="replicate")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen_encoder):
            maps = self.encoder(normal)
        return [maps[2], maps[-1]]

    def logits(
        self,
        features: Sequence[Tensor],
        size: tuple[int, int],
        input_size: tuple[int, int],
        maps: torch.device | None = None,
    ) -> Tensor:
        """Cosine logits (B, K, *size) of encoded images that had `input_size` before padding.

        They are made on the device `maps`, by default where the model is.
        """
        return upsample(self.head.classifier(self.head(features)).to(maps), size, input_size)

    def decode(
        self,
        features: Sequence[Tensor],
        size: tuple[int, int],
        input_size: tuple[int, int] | None = None,
        maps: torch.device | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, K, *size) and unit point features (B, F, *size), not unit after upsampling.

        `input_size` is that of the encoded images, `size` where not given; `maps` as in `logits`.
        """
        points = self.head(features)
        shown = input_size or size
        return (
            upsample(self.head.classifier(points).to(maps), size, shown),
            upsample((points / length(points)).to(maps), size, shown),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K, H, W) in [-1, 1] and point features (B, F, H, W) at the images' size."""
        return self.decode(self.encode(images), (images.shape[-2], images.shape[-1]))


def upsample(maps: Tensor, size: tuple[int, int], input_size: tuple[int, int]) -> Tensor:
    """Bring stride-4 maps of a padded input to `size`, dropping what belongs to the padding."""
    maps = maps.float()
    padded = (input_size[0] + -input_size[0] % STRIDE, input_size[1] + -input_size[1] % STRIDE)
    if padded != tuple(input_size):
        maps = F.interpolate(maps, size=padded, mode="bilinear", align_corners=False)
        maps = maps[..., : input_size[0], : input_size[1]]
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def build(
    config: ModelConfig,
    num_outputs: int,
    undefined: bool = False,
    *,
    seed: int = 0,
    pretrained: bool = True,
) -> SegmentationModel:
    """A model with pretrained encoder (`config.weights`) and a head drawn from `seed`.

    `undefined`: the last output is no class and is never predicted. `pretrained` False leaves the
    encoder random, for weights loaded afterwards.
    Raises ConfigError for an unknown encoder or weights that cannot be had.
    """
    if num_outputs - undefined < 1:
        raise ConfigError(
            f"A model needs at least one class, got {num_outputs - undefined}.",
            hint="List the classes.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SegmentationModel(config, num_outputs, undefined)
    if pretrained:
        load_pretrained(model.encoder, config)
    return model.eval()


def _encoder(config: ModelConfig) -> tuple[nn.Module, list[int]]:
    """The encoder and the channels of its maps at stride 1, 2, 4, 8, 16 and on."""
    if not timm.is_model(config.encoder):
        near = timm.list_models(f"*{config.encoder.split('_')[-1].split('.')[0]}*")[:8]
        raise ConfigError(
            f"timm has no model named {config.encoder!r}.",
            hint=f"Near: {', '.join(near) or 'none'}. timm.list_models() lists all.",
        )
    try:
        encoder: nn.Module = smp.encoders.get_encoder(
            f"tu-{config.encoder}", weights=None, output_stride=config.output_stride
        )
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, AssertionError) as error:
        raise ConfigError(
            f"{config.encoder} cannot give features at stride {config.output_stride}: {error}",
            hint="Take a convolutional encoder, for instance resnet50s.",
        ) from error
    channels: list[int] = list(encoder.out_channels)  # type: ignore[arg-type]
    if len(channels) < 5 or channels[2] == 0:
        raise ConfigError(
            f"{config.encoder} has no features at stride 4.",
            hint="Take a convolutional encoder, for instance resnet50s.",
        )
    return encoder, channels
