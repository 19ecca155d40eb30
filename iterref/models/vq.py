"""VQ: images as grids of codes and back, and the parts of `diffusers` pipelines, read as data and never as code.

    codes = the codebook's nearest vectors to encoder(image)        image = decoder(codebook[codes]),  clipped to [0, 1]

The VQ model runs in float32 whatever the other parts do: half precision overflows in it, and the published pipelines
upcast it, too (`force_upcast`). Images have values in [0, 1] on both sides.
Sources: van den Oord et al. 2017, arXiv:1711.00937; Esser et al. 2021, arXiv:2012.09841.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from iterref.fence import fenced
from iterref.hub import first_line, read_json
from iterref.models.checkpoint import Checkpoint
from iterref.models.pretrained import filled

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = 0.5  # what stands for a code that is not there yet


@dataclass(frozen=True, eq=False)
class ImageCodec:
    """Images of one size and their codes, by a VQModel of `diffusers`. `shape` is (h, w) codes, and a code covers
    `scale` x `scale` pixels; `batch` images go through the network at once."""

    network: Any
    shape: tuple[int, int]
    scale: int
    batch: int = 8

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.shape[0] * self.scale, self.shape[1] * self.scale

    @property
    def vocab(self) -> int:
        return int(self.network.config.num_vq_embeddings)

    def render(self, codes: Tensor) -> Tensor:
        """(R, h w) long -> (R, 3, H, W) float32 in [0, 1]; a token that is no code, such as the mask, is grey."""
        with fenced(codes.device):
            parts = [self._decoded(some) for some in codes.split(self.batch) if len(some)]
        return torch.cat(parts) if parts else torch.zeros(0, 3, *self.size, device=codes.device)

    def codes(self, images: Sequence[Image | Tensor] | Tensor) -> Tensor:
        """R images of PIL, or (3, H, W) floats in [0, 1] each -> (R, h w) long. Raises `ValueError` for an image of
        another size or outside of [0, 1], naming it."""
        device = next(self.network.parameters()).device
        read = [self._read(image, row).to(device) for row, image in enumerate(images)]
        with fenced(device):
            some = [torch.stack(read[at : at + self.batch]) for at in range(0, len(read), self.batch)]
            codes = [self.network.quantize(self.network.encode(images).latents)[2][2] for images in some]
            parts = [found.view(len(images), -1) for found, images in zip(codes, some, strict=True)]
        return torch.cat(parts) if parts else torch.zeros(0, self.shape[0] * self.shape[1], dtype=torch.long)

    def _decoded(self, codes: Tensor) -> Tensor:
        known = codes < self.vocab
        grid = torch.where(known, codes, 0)
        shape = (len(codes), *self.shape, self.network.config.latent_channels)
        images = self.network.decode(grid, force_not_quantize=True, shape=shape).sample.clip(0, 1)
        missing = ~known.view(-1, 1, *self.shape)
        missing = missing.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        return torch.where(missing, GREY, images)

    def _read(self, image: Image | Tensor, row: int) -> Tensor:
        if not isinstance(image, Tensor):
            import numpy

            image = torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1) / 255
        if image.shape != (3, *self.size) or not image.is_floating_point():
            told = f"the model draws {self.size[0]} x {self.size[1]} pixels: resize it, as floats in [0, 1] or of PIL"
            raise ValueError(f"image {row} is {image.dtype} of shape {tuple(image.shape)}, and {told}")
        if bool(((image < 0) | (image > 1)).any()):
            raise ValueError(f"image {row} leaves [0, 1]: divide bytes by 255")
        return image.float()


def pictures(images: Tensor) -> list[Image]:
    """(R, 3, H, W) in [0, 1] -> R images of PIL, of 8 bits a channel."""
    from PIL import Image

    array = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(one) for one in array]


def opened(folder: Path, name: str, part: str, **placing: Any) -> Checkpoint:
    """The checkpoint of one part of a pipeline, a folder in it. Raises `FileNotFoundError` where it has none."""
    named = f"{name}/{part}"
    return Checkpoint(named, folder / part, read_json(folder / part / "config.json", named), **placing)


def network(kind: Any, checkpoint: Checkpoint) -> nn.Module:
    """A network of a class of `diffusers` for inference. Raises `ValueError` for a configuration that the class
    refuses, other weights than its own, and a network that the device has no room for."""
    checkpoint.expect_room()
    try:
        with torch.device("meta"):
            made: nn.Module = kind.from_config(dict(checkpoint.config))
    except Exception as error:  # whatever the class objects to, one sentence says where
        raise ValueError(f"config.json of {checkpoint.name} is none of {kind.__name__} ({first_line(error)})") from None
    return filled(made, checkpoint.weights(), checkpoint.name, lambda name: checkpoint.dtype, checkpoint.device)
