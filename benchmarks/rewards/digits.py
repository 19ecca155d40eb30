"""Digits: rewards and judges of 8 x 8 digits: a class, by a classifier; realism, by a discriminator; features.

    class     log p(y | x)                       the reward's classifier and the judge's learned from disjoint images
    realism   log p_data(x | y) - log p_4(x | y)   the logit of a network that tells the data from samples of 4 steps

Four steps draw sixteen tokens at a time, each by itself, and that shows. Where p_4 is what is drawn from, realism with
alpha = 1 makes the tilted law p_4(x | y) exp(r(x)) that of the data, as far as the discriminator is right (Azadi et al.
2019, arXiv:1810.06758; Kim et al. 2023, arXiv:2211.17091). All networks read grey levels 0 .. 16 in reading order.
benchmarks/models/train_digits.py made them, docs/digits.md describes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.models.digits import CLASSES, LENGTH, LEVELS, SIDE
from iterref.rewards.algebra import Composable

WEIGHTS = Path(__file__).parent / "weights" / "digits"
FEATURES = 16


class ClassNetwork(nn.Module):
    """The reward's classifier: two convolutions and a linear layer."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * width * (SIDE // 2) ** 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Grey levels (R, 64) -> logits (R, 10)."""
        return self.head(F.relu(self.second(F.relu(self.first(_images(x))))).flatten(1))


class JudgeNetwork(nn.Module):
    """The judge: a perceptron, whose last hidden layer before its activation are the features."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.first = nn.Linear(LENGTH, width)
        self.second = nn.Linear(width, FEATURES)
        self.head = nn.Linear(FEATURES, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """Grey levels (R, 64) -> features (R, 16)."""
        return self.second(F.gelu(self.first(_scaled(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Grey levels (R, 64) -> logits (R, 10)."""
        return self.head(F.gelu(self.features(x)))


class RealismNetwork(nn.Module):
    """The discriminator: convolutions, and a product of what they see with a vector of the class.

    Miyato and Koyama (2018), arXiv:1802.05637.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.third = nn.Linear(2 * width * (SIDE // 2) ** 2, 2 * width)
        self.head = nn.Linear(2 * width, 1)
        self.labels = nn.Embedding(CLASSES, 2 * width)
        self.drop = nn.Dropout(0.3)
        nn.init.zeros_(self.labels.weight)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Grey levels (R, 64) of classes (R,) long -> logits (R,)."""
        seen = self.drop(F.silu(self.second(F.silu(self.first(_images(x))))).flatten(1))
        inside = self.drop(F.silu(self.third(seen)))
        return self.head(inside)[:, 0] + (inside * self.labels(label)).sum(1)


class DigitClass(Composable):
    """log p(y | x) of every row's own class, a reward of tokens: `labels` (B,) are the classes that are wanted.

    Raises `ValueError` for a class that is none of 0 .. 9.
    """

    def __init__(self, labels: Sequence[int] | Tensor) -> None:
        self.labels = _classes(labels)
        self.network = _read(ClassNetwork(), "classifier")

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, 64) long, (R,) long -> (R,) float64."""
        return _log_p(self.network, tokens).gather(1, self.labels[rows, None])[:, 0]


class Realism(Composable):
    """How much likelier an image is in the data than among 4-step samples of the bundled `model`, in nats, a reward.

    `labels` (B,) are the rows' classes. Raises `ValueError` for a class that is none of 0 .. 9, or another model.
    """

    def __init__(self, labels: Sequence[int] | Tensor, model: Literal["masked", "uniform"] = "masked") -> None:
        if model not in ("masked", "uniform"):
            raise ValueError(f"there is no discriminator for the samples of {model!r}: say 'masked' or 'uniform'")
        self.labels = _classes(labels)
        self.network = _read(RealismNetwork(), f"realism-{model}")

    @torch.no_grad()
    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, 64) long, (R,) long -> (R,) float64."""
        return self.network(tokens, self.labels[rows]).double()


class Judge:
    """The held-out judge of classes, and the space of features in which sets of images are compared.

    `means` (10, F) and `seconds` (10, F, F) are, a class, the moments of the features of held-out real digits, of which
    there are equally many a class.
    """

    def __init__(self) -> None:
        weights = _weights("judge")
        self.means, self.seconds = weights.pop("means").double(), weights.pop("seconds").double()
        self.network = JudgeNetwork()
        self.network.load_state_dict(weights)
        self.network.eval().requires_grad_(False)

    def log_p(self, tokens: Tensor) -> Tensor:
        """(R, 64) long -> (R, 10) float64 log p(y | x)."""
        return _log_p(self.network, tokens)

    @torch.no_grad()
    def features(self, tokens: Tensor) -> Tensor:
        """(R, 64) long -> (R, F) float64."""
        return self.network.features(tokens).double()


@torch.no_grad()
def _log_p(network: nn.Module, tokens: Tensor) -> Tensor:
    return torch.log_softmax(network(tokens).double(), -1)


def _scaled(x: Tensor) -> Tensor:
    return x / ((LEVELS - 1) / 2) - 1


def _images(x: Tensor) -> Tensor:
    return _scaled(x).view(-1, 1, SIDE, SIDE)


def _classes(labels: Sequence[int] | Tensor) -> Tensor:
    known = torch.as_tensor(labels)
    wrong = ((known < 0) | (known >= CLASSES)).nonzero()
    if len(wrong):
        row = int(wrong[0, 0])
        raise ValueError(f"row {row}: the class {int(known[row])} is none of 0 to 9: give one of these")
    return known.long()


def _read(network: nn.Module, name: str) -> nn.Module:
    network.load_state_dict(_weights(name))
    return network.eval().requires_grad_(False)


def _weights(name: str) -> dict[str, Tensor]:
    return {key: weight.float() for key, weight in load_file(WEIGHTS / f"{name}.safetensors").items()}
