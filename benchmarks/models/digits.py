"""Digits: the bundled diffusion models of 8 x 8 handwritten digits, class-conditional, one masked and one uniform.

    x in {0 .. 16}^64, grey levels in reading order;   y in 0 .. 9, or 10 for no class
    h = table(x_t) + place;   residual blocks of 3 x 3 convolutions, scaled and shifted by c = y [+ noise level]
    masked   logits -> p(x_0^i | x_t, y) at masks;      uniform   logits -> p(x_0^i | x_t^{-i}, y), leave-one-out

Both are trained by the same loss: the cross-entropy of the tokens that the noise has renewed. Once renewed, a token
says nothing of what stood there, so under uniform noise the optimum of the raw logits is the leave-one-out law. A table
of places and convolutions are the 2-D position information; blocks are modulated as in Peebles and Xie (2023),
arXiv:2212.09748. docs/digits.md tells how the weights were made and how good they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from iterref.denoiser import Denoiser, carry_over_, from_leave_one_out
from iterref.hub import read_json
from iterref.noise import Noise, absorbing, uniform

SIDE, LEVELS, CLASSES = 8, 17, 10
LENGTH = SIDE**2
NONE = CLASSES  # the label of no class
WAVES = 8  # cosines of the noise level
FIRST = 1 / LENGTH  # the least noise of training: one renewed token an image
WEIGHTS = Path(__file__).parent / "weights"
FOLDERS = {"masked": "digits", "uniform": "digits-uniform"}
FORMAT = "iterref-digits-1"


@dataclass(frozen=True)
class DigitsOptions:
    """Sizes of the network: `blocks` of `width` channels, a multiple of 4; it is `masked`, or else reads the noise."""

    masked: bool
    width: int = 48
    blocks: int = 5

    @property
    def noise(self) -> Noise:
        """The noise that the network undoes: the mask is the token after the grey levels."""
        return absorbing(LEVELS + 1) if self.masked else uniform(LEVELS)


class Residual(nn.Module):
    """Two 3 x 3 convolutions, the second one's input scaled and shifted by c."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.adapt = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        inside = self.first(F.silu(self.norm1(x)))
        scale, shift = self.adapt(c)[:, :, None, None].chunk(2, dim=1)
        return x + self.second(F.silu(self.norm2(inside) * (1 + scale) + shift))


class DigitsNetwork(nn.Module):
    """The network: tokens, their noise level and a class in, logits of the open positions out."""

    def __init__(self, options: DigitsOptions) -> None:
        super().__init__()
        self.options = options
        width = options.width
        self.table = nn.Embedding(options.noise.vocab, width)
        self.place = nn.Parameter(0.5 * torch.randn(LENGTH, width))
        self.labels = nn.Embedding(CLASSES + 1, width)
        self.level = None if options.masked else nn.Linear(WAVES, width)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(options.blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, LEVELS)

    def forward(self, x_t: Tensor, level: Tensor, label: Tensor, where: Tensor) -> Tensor:
        """Tokens (R, 64) long with a share level (R,) of noise, of class label (R,) long, as raw logits (M, 17) of the
        True cells of where (R, 64), row-major. A masked network does not look at the level."""
        c = self.labels(label)
        if self.level is not None:
            waves = torch.arange(1, WAVES + 1, device=x_t.device) * (pi * level.to(c.dtype)[:, None])
            c = c + self.level(waves.cos())
        c = F.silu(c)
        x = (self.table(x_t) + self.place).transpose(1, 2).unflatten(2, (SIDE, SIDE))
        for block in self.blocks:
            x = block(x, c)
        logits: Tensor = self.head(self.norm(x.flatten(2).transpose(1, 2)[where]))
        return logits


@dataclass(frozen=True, eq=False)
class MaskedDigits(Denoiser):
    """The masked network at B images' classes `labels` (B,) long, as a `Denoiser` of these images."""

    network: DigitsNetwork
    noise: Noise
    labels: Tensor

    time_independent = True

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, 64), (R,), (R, 64) bool, (R,) -> (M, 18) float32 log p(x_0^i | x_t, y)."""
        return self._law(x_t, t, where, rows, log=True)

    def probabilities(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """The exponential of the same, (M, 18) float32."""
        return self._law(x_t, t, where, rows, log=False)

    @torch.no_grad()
    def _law(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor, log: bool) -> Tensor:
        assert self.noise.mask is not None
        logits = F.pad(self.network(x_t, t, self.labels[rows], where), (0, 1))
        return carry_over_(logits, x_t, where, self.noise.mask, log)


@dataclass(frozen=True, eq=False)
class UniformDigits(Denoiser):
    """The uniform network at B images' classes `labels` (B,) long, as a `Denoiser` with a `leave_one_out` law."""

    network: DigitsNetwork
    noise: Noise
    labels: Tensor

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, 64), (R,), (R, 64) bool, (R,) -> (M, 17) float32 log p(x_0^i | x_t, y)."""
        level = (1 - self.noise.a(t)).to(x_t.device)
        return from_leave_one_out(self._left_out(x_t, level, where, rows), x_t, t, where, self.noise)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, 64) clean tokens, (R, 64) bool, (R,) -> (M, 17) log p(x^i | x^{-i}, y), at training's least noise."""
        return self._left_out(x, torch.full((len(x),), FIRST, device=x.device), where, rows)

    @torch.no_grad()
    def _left_out(self, x_t: Tensor, level: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return torch.log_softmax(self.network(x_t, level, self.labels[rows], where), -1)


class Digits:
    """A model of digits: classes in, a denoiser of their images out."""

    def __init__(self, network: DigitsNetwork) -> None:
        self.network = network.eval().requires_grad_(False)
        self.noise = network.options.noise

    @classmethod
    def load(cls, model: str | Path = "masked", device: torch.device | str = "cpu") -> Digits:
        """The bundled "masked" or "uniform" model, or that in a folder that benchmarks/models/train_digits.py wrote.

        Raises `FileNotFoundError` where a file is missing and `ValueError` for a folder of another format.
        """
        folder = WEIGHTS / FOLDERS[model] if isinstance(model, str) and model in FOLDERS else Path(model)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{model} has no {name}: say {' or '.join(map(repr, FOLDERS))}, or give a folder that "
                    "benchmarks/models/train_digits.py wrote"
                )
        config = read_json(folder / "config.json", str(model))
        if config.get("format") != FORMAT:
            raise ValueError(f"{model} is no {FORMAT} folder: give one that benchmarks/models/train_digits.py wrote")
        network = DigitsNetwork(DigitsOptions(**config["network"]))
        network.load_state_dict({name: w.float() for name, w in load_file(folder / "model.safetensors").items()})
        return cls(network.to(device))

    def render(self, tokens: Tensor) -> Tensor:
        """Canvases (R, 64) long -> pictures (R, 1, 8, 8) float32: ink is black, and what is masked is grey."""
        light = 1 - tokens / (LEVELS - 1)
        return torch.where(tokens < LEVELS, light, 0.5).view(-1, 1, SIDE, SIDE)

    def prepare(self, labels: Sequence[int | None] | Tensor) -> tuple[MaskedDigits | UniformDigits, Tensor, Tensor]:
        """B classes, None for an image of any class -> their denoiser, a canvas (B, 64) long, free positions (B, 64).

        Raises `ValueError` for no classes, or one that is none of 0 .. 9.
        """
        listed = labels.tolist() if isinstance(labels, Tensor) else list(labels)
        if not listed:
            raise ValueError("there are no classes: give at least one, 0 to 9, or None for an image of any class")
        for row, label in enumerate(listed):
            if label is not None and label not in range(CLASSES):
                raise ValueError(f"row {row}: the class {label!r} is none of 0 to 9: give one of these, or None")
        device = self.network.place.device
        known = torch.tensor([NONE if label is None else label for label in listed], device=device)
        canvas = torch.full((len(listed), LENGTH), self.noise.mask or 0, device=device)
        kind = MaskedDigits if self.network.options.masked else UniformDigits
        return kind(self.network, self.noise, known), canvas, torch.ones_like(canvas, dtype=torch.bool)
