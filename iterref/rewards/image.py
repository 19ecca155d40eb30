"""Images: the log-probability of a class, and closeness to a text in the manner of CLIP, of rendered tokens.

    r(x) = log p(class | render(x))                      (`ImageClassifier`)
    r(x) = cos(e_image(render(x)), e_text(prompt))       (`ImageText`; CLIPScore is 100 max(r, 0))

`render` makes images of token canvases, a VQ decoder for instance. Images are resized, cropped and normalised as the
checkpoint's preprocessor_config.json says, in plain PyTorch.
Sources: Radford et al. 2021, arXiv:2103.00020 (CLIP); Hessel et al. 2021, arXiv:2104.08718 (CLIPScore, section 3).
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from iterref.rewards.algebra import Composable
from iterref.rewards.base import expect_choice
from iterref.rewards.checkpoint import Device, Kind, load, load_tokenizer
from iterref.rewards.classifier import Measure, has_sigmoids, judged, label_index
from iterref.rewards.network import padded, padding

Render = Callable[[Tensor], Tensor]
Filter = Literal["nearest", "bilinear", "bicubic"]
# PIL's numbers of its filters, as preprocessor_config.json writes them.
FILTERS: dict[int, Filter] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
# Its switches that are followed here, or change nothing of an image in RGB, and what else in it changes pixels.
SWITCHES = ("do_resize", "do_center_crop", "do_normalize", "do_rescale", "do_convert_rgb", "do_reduce_labels")
OTHERS = ("crop_pct", "include_top", "rescale_offset", "offset", "size_divisor")


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its images: resized (by the shortest edge, or both), cropped in the middle, normalised."""

    shortest: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    filter: Filter
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path | None) -> Preprocessing:
        """From a checkpoint's preprocessor_config.json. Raises `FileNotFoundError` where there is none, and
        `ValueError` for what it asks for that is not known here."""
        file = folder / "preprocessor_config.json" if folder else None
        if file is None or not file.is_file():
            raise FileNotFoundError(f"{folder} has no preprocessor_config.json: save the image processor beside it")
        config = json.loads(file.read_text(encoding="utf-8"))
        if unknown := _unknown(config):
            told = f"{file} prepares images by {', '.join(unknown)}"
            raise ValueError(f"{told}, which is not known here: give another model")
        size = config.get("size") if config.get("do_resize", True) else None
        crop = config.get("crop_size") if config.get("do_center_crop") else None
        shortest = size if isinstance(size, int) and config.get("do_center_crop") else None
        if isinstance(size, dict):
            shortest = size.get("shortest_edge")
        scale, number = bool(config.get("do_normalize", "image_mean" in config)), int(config.get("resample", 2))
        if number not in FILTERS:
            raise ValueError(f"{file} asks for the filter {number}, known are {sorted(FILTERS)}: choose one of these")
        return cls(
            shortest,
            _edges(size) if size is not None and shortest is None else None,
            _edges(crop) if crop is not None else None,
            FILTERS[number],
            mean=tuple(config.get("image_mean", (0.5,) * 3)) if scale else (0.0,) * 3,
            sd=tuple(config.get("image_std", (0.5,) * 3)) if scale else (1.0,) * 3,
        )

    def __call__(self, images: Tensor) -> Tensor:
        """(R, 3, H, W) in [0, 1] -> (R, 3, H', W') as the network reads them."""
        height, width = images.shape[2:]
        target = self.size or (height, width)
        if self.shortest is not None:
            short = min(height, width)
            target = (height * self.shortest // short, width * self.shortest // short)
        if target != (height, width):
            smooth = self.filter != "nearest"
            images = interpolate(images, target, mode=self.filter, antialias=smooth).clamp(0, 1)
        if self.crop is not None:
            top, left = (images.shape[2] - self.crop[0]) // 2, (images.shape[3] - self.crop[1]) // 2
            if top < 0 or left < 0:
                told = f"an image of {tuple(images.shape[2:])}"
                raise ValueError(f"{told} is smaller than the crop {self.crop}: enlarge it")
            images = images[:, :, top : top + self.crop[0], left : left + self.crop[1]]
        mean, sd = (torch.tensor(one, device=images.device).view(1, -1, 1, 1) for one in (self.mean, self.sd))
        return (images - mean) / sd


@dataclass(eq=False, repr=False, kw_only=True)
class ImageReward(Composable):
    """What rewards of images have in common: tokens are rendered `batch` at a time, prepared and judged.

    `render` takes canvases (R, L) long and gives images (R, 3, H, W) in [0, 1]. `model` is a folder or hub name with
    safetensors, or a loaded network with its `preprocessing`."""

    kind: ClassVar[Kind]

    render: Render = field(kw_only=False)
    model: Any = field(kw_only=False)
    device: Device = "cpu"
    dtype: torch.dtype | str = "float32"
    batch: int = 32
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"a batch of {self.batch} images cannot be read: give at least 1")
        self.checkpoint = load(self.kind, self.model, self.device, self.dtype)
        self._prepare = self.preprocessing or Preprocessing.read(self.checkpoint.folder)

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        parts = zip(tokens.split(self.batch), rows.split(self.batch), strict=True)
        with self.checkpoint.judging():
            values = [self.judge(self._pixels(canvas), row) for canvas, row in parts if len(canvas)]
        return torch.cat(values).to(tokens.device) if values else torch.zeros(0, dtype=torch.float64)

    @abstractmethod
    def judge(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """Prepared images (R, 3, H, W) and their rows (R,) -> (R,) float64."""

    def _pixels(self, tokens: Tensor) -> Tensor:
        images = self.render(tokens)
        if images.dim() != 4 or images.shape[:2] != (len(tokens), 3) or not images.is_floating_point():
            told = f"render gave {images.dtype} of shape {tuple(images.shape)} for {len(tokens)} canvases"
            raise ValueError(f"{told}: return floats of shape (canvases, 3, height, width) in [0, 1]")
        outside = (images < 0) | (images > 1)
        if bool(outside.any()):
            row = int(outside.flatten(1).any(1).nonzero()[0, 0])
            raise ValueError(f"image {row} of a render leaves [0, 1]: rescale or clamp what the decoder gives")
        weight = next(self.checkpoint.network.parameters())
        return self._prepare(images.to(weight.device, torch.float32)).to(weight.dtype)


@dataclass(eq=False, repr=False, kw_only=True)
class ImageClassifier(ImageReward):
    """A class's log-probability, probability or logit of a rendered image, a reward of tokens.

    `label` is a name or a number, or one of these a prompt; the other options are as for every `ImageReward`. Raises as
    `Classifier` does."""

    kind = "ImageClassification"

    label: str | int | Sequence[str | int] = field(kw_only=False)
    value: Measure = "log_probability"

    def __post_init__(self) -> None:
        expect_choice(self.value, Measure, "a classifier has no value")
        super().__post_init__()
        self.separate = has_sigmoids(self.checkpoint.config)
        labels = [self.label] if isinstance(self.label, str | int) else self.label
        self.labels = torch.tensor([label_index(self.checkpoint.config, one, self.value) for one in labels])

    def judge(self, pixels: Tensor, rows: Tensor) -> Tensor:
        logits = self.checkpoint.network(pixel_values=pixels).logits
        index = _places(rows, self.label, len(self.labels), "label")
        return judged(logits, self.value, self.separate).gather(1, self.labels[index, None].to(logits.device))[:, 0]


@dataclass(eq=False, repr=False, kw_only=True)
class ImageText(ImageReward):
    """Cosine in [-1, 1] of a rendered image's and a text's embeddings by a CLIP model, a reward of tokens.

    `texts` is one text, or one a prompt, embedded once; the other options are as for every `ImageReward`. Raises
    ValueError for a text of more tokens than the model reads."""

    kind = "CLIP"

    texts: str | Sequence[str] = field(kw_only=False)
    tokenizer: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._texts = self._embedded([self.texts] if isinstance(self.texts, str) else list(self.texts))

    def judge(self, pixels: Tensor, rows: Tensor) -> Tensor:
        images = _features(self.checkpoint.network.get_image_features(pixel_values=pixels))
        index = _places(rows, self.texts, len(self._texts), "text")
        return (images * self._texts[index.to(self._texts.device)]).sum(1)

    def _embedded(self, texts: list[str]) -> Tensor:
        """Embeddings (T, D) float64 of length 1."""
        tokenizer, network = load_tokenizer(self.tokenizer, self.checkpoint), self.checkpoint.network
        ids = tokenizer(texts, verbose=False)["input_ids"]
        most = self.checkpoint.config.text_config.max_position_embeddings
        for row, one in enumerate(ids):
            if len(one) > most:
                raise ValueError(f"text {row} has {len(one)} tokens and the model reads {most}: shorten it")
        encodings = [{"input_ids": one, "attention_mask": [1] * len(one)} for one in ids]
        with self.checkpoint.judging():
            batch = padded(encodings, padding(tokenizer, self.checkpoint.config), self.checkpoint.device)
            return _features(network.get_text_features(**batch))


def _features(answer: Any) -> Tensor:
    """Unit vectors (R, D) float64 of what get_*_features gives: a tensor, or in later versions an output with one."""
    features = answer if isinstance(answer, Tensor) else answer.pooler_output
    return normalize(features.double(), dim=1)


def _places(rows: Tensor, given: Any, size: int, name: str) -> Tensor:
    """Where what belongs to rows (R,) stands among `size`: at the row, unless one, a string or a number, is for all."""
    if isinstance(given, str | int):
        return torch.zeros_like(rows).cpu()
    if len(rows) and int(rows.max()) >= size:
        raise ValueError(f"row {int(rows.max())} has no {name}, there are {size}: give one a row")
    return rows.cpu()


def _unknown(config: dict[str, Any]) -> list[str]:
    """What an image processor's configuration asks for that would be passed over here."""
    asked = {key: value for key, value in config.items() if key in OTHERS or key.startswith("do_")}
    found = [f"{key}={value}" for key, value in asked.items() if value and key not in SWITCHES]
    if config.get("do_rescale") is False or abs(255 * float(config.get("rescale_factor") or 1 / 255) - 1) > 1e-3:
        found.append(f"do_rescale={config.get('do_rescale')}, rescale_factor={config.get('rescale_factor')}")
    if isinstance(config.get("size"), dict) and "longest_edge" in config["size"]:
        found.append(f"size={config['size']}")
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type"))
    return found + [kind] * kind.startswith("Levit")  # which enlarges the shortest edge that it names


def _edges(size: Any) -> tuple[int, int]:
    """(height, width) of a size as configurations write it."""
    if isinstance(size, dict):
        return (int(size["height"]), int(size["width"])) if "height" in size else _edges(size["shortest_edge"])
    return (int(size), int(size))
