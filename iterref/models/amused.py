"""aMUSEd: images as grids of codes, masked and filled in given a text (Patil et al. 2024, arXiv:2401.01808).

    log p(x_0^i | x_t, text) = log-softmax over the codebook of the logits at masked positions; a revealed code is sure
    guidance:  logits = logits_empty + scale (logits_text - logits_empty)                          two passes a row

Training takes the cross-entropy of the masked codes: its optimum is the posterior whatever their share. The schedule is
that of the checkpoint's scheduler, a_t = 1 - cos((1 - t) pi / 2) in the published ones. At temperature 0
`AmusedScheduler` is order="confidence", but that it rounds the number of masks down and reveals one code a step at the
least; its Gumbel noise is not taken over. CLIP's text encoder (Radford et al. 2021, arXiv:2103.00020) gives the states
before its last layer and the projected embedding. Nothing hides the padding, in training neither.

Compared with diffusers 0.42.1: tests/models/test_amused.py says how close.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iterref.denoiser import Denoiser, carry_over
from iterref.fence import fenced
from iterref.guidance import ClassifierFreeGuidance
from iterref.hub import fetched, first_line, quiet, read_json
from iterref.models import pretrained, vq
from iterref.models.checkpoint import Checkpoint
from iterref.models.family import Family
from iterref.models.text.tokenized import TokenizedModel
from iterref.models.vq import ImageCodec
from iterref.noise import Noise, Schedule, absorbing
from iterref.optional import require

FAMILY = Family(
    title="aMUSEd pipelines of diffusers",
    reads=("amusedpipeline", "amusedimg2imgpipeline", "amusedinpaintpipeline"),
    whole="a model of images has its own size and tokenizer: say height= and width= in pixels",
)
INDEX = "model_index.json"
# What a hub name is asked for: one precision of the weights, no pickle, no code.
FILES = (INDEX, "*/config.json", "scheduler/scheduler_config.json", "tokenizer/*.json", "tokenizer/merges.txt",
         "*/model.safetensors", "*/diffusion_pytorch_model.safetensors", "*.safetensors.index.json",
         "*/*-of-?????.safetensors")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Read:
    """Prompts that were read: `states` (U, T, D) and `pooled` (U, P) of U different ones, and `which` (B,) of them each
    row has, None where all rows have the first."""

    states: Tensor
    pooled: Tensor
    which: Tensor | None

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) rows -> (R, T, D), (R, P)."""
        at = torch.zeros_like(rows) if self.which is None else self.which[rows]
        return self.states[at], self.pooled[at]


class Reader:
    """CLIP's tokenizer and text encoder; a prompt has `room` for tokens."""

    def __init__(self, words: Path, checkpoint: Checkpoint) -> None:
        """The tokenizer in a folder `words`, and the text encoder of a checkpoint. Raises `FileNotFoundError` where
        there is no tokenizer, and `ValueError` for parts that cannot be read or do not belong together."""
        import transformers

        if not any((words / file).is_file() for file in ("tokenizer.json", "vocab.json")):
            raise FileNotFoundError(f"{words} has no vocab.json and no tokenizer.json: get the pipeline's whole folder")
        fast: Any = getattr(transformers, "CLIPTokenizerFast")  # noqa: B009  an alias that version 5 makes at run time
        with quiet():
            try:
                self.tokenizer = fast.from_pretrained(words, local_files_only=True)
            except Exception as error:  # the library's parsers raise bare Exceptions
                raise ValueError(f"{words} is no tokenizer of CLIP's ({first_line(error)}): get it again") from None
        known, size = checkpoint.size("vocab_size"), len(self.tokenizer)
        if size > known:
            told = f"the tokenizer in {words} has {size} tokens and {checkpoint.name} knows {known}"
            raise ValueError(f"{told}: they belong to different models")
        checkpoint.expect_room()
        kind: Any = transformers.CLIPTextModelWithProjection
        config = pretrained.settings(kind, checkpoint)
        self.encoder: Any = pretrained.network(kind, config, checkpoint, spare=("position_ids",))
        self.room = min(self.tokenizer.model_max_length, config.max_position_embeddings)

    def __call__(self, prompts: Sequence[str]) -> Read:
        """B prompts, each different one read once. Raises `ValueError` for one that is too long, naming the row."""
        different = list(dict.fromkeys(prompts))
        ids = self.tokenizer(different, padding="max_length", max_length=self.room, verbose=False)["input_ids"]
        for prompt, one in zip(different, ids, strict=True):
            if len(one) > self.room:
                row = list(prompts).index(prompt)
                raise ValueError(f"prompt {row} has {len(one)} tokens and the model reads {self.room}: shorten it")
        device = self.encoder.device
        with fenced(device):
            answer = self.encoder(input_ids=torch.tensor(ids, device=device), output_hidden_states=True)
        number = {prompt: at for at, prompt in enumerate(different)}
        which = torch.tensor([number[prompt] for prompt in prompts], device=device)
        return Read(answer.hidden_states[-2], answer.text_embeds, which)


class Network:
    """The transformer of `diffusers`: grids of codes and what was read of a text to logits of chosen positions. Its
    head is two convolutions of one position each, so that it runs on the chosen positions alone."""

    def __init__(self, transformer: Any) -> None:
        self.head: Any = transformer.mlm_layer
        transformer.mlm_layer = nn.Identity()
        self.body = transformer

    def __call__(self, grid: Tensor, where: Tensor, states: Tensor, pooled: Tensor, micro: Tensor) -> Tensor:
        """(R, h, w), (R, h, w) bool, (R, T, D), (R, P), (R, 5) -> (M, codebook) float32 logits."""
        hidden = self.body(grid, encoder_hidden_states=states, pooled_text_emb=pooled, micro_conds=micro)
        chosen = hidden.permute(0, 2, 3, 1)[where]
        if not len(chosen):
            return torch.zeros(0, self.head.conv2.out_channels, device=grid.device)
        line = chosen.T[None, :, :, None]  # one image of M x 1: five times faster than M images of one position
        logits: Tensor = self.head(line)[0, :, :, 0].T
        return logits.float()

    def compile(self, *, dynamic: bool, mode: str | None) -> None:
        """Has torch compile the transformer's layers at first use. The convolutions around them stay as they are:
        halving a grid of any size is more than torch can compile."""
        for layer in self.body.transformer_layers:
            layer.compile(dynamic=dynamic, mode=mode)


@dataclass(eq=False)
class Grid(Denoiser):
    """The masked denoiser of B texts' images. `shape` is (h, w) codes, `micro` (5,) the original width and height, the
    crop's corner and the aesthetic score."""

    network: Network
    noise: Noise
    text: Read
    shape: tuple[int, int]
    micro: Tensor

    time_independent = True

    def __post_init__(self) -> None:
        self.uses_prompts = self.text.which is not None

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        assert self.noise.mask is not None
        grid, opened = x_t.view(-1, *self.shape), where.view(-1, *self.shape)
        logits = self.network(grid, opened, *self.text.of(rows), self.micro.expand(len(x_t), -1))
        # ids between the codebook and the mask fill the embedding up to a round number and stand in no image
        logits = nn.functional.pad(logits, (0, self.noise.vocab - logits.shape[1]), value=-torch.inf)
        return carry_over(logits, x_t, where, self.noise.mask)


class ImageModel(TokenizedModel):
    """Prompts in, a denoiser of grids of codes with empty canvases out; codes to images and back. A text model whose
    texts are images: `decode` gives images of PIL, `encode` takes them. `render` is what image rewards take. `guidance`
    above 1 leaves the text that is `avoided` ("" is none) behind; 1 or None asks without it."""

    draws_images = True

    def __init__(
        self, network: Network, noise: Noise, reader: Reader, images: ImageCodec, micro: Tensor,
        guidance: float | None = 10.0, avoided: str = "",
    ) -> None:  # fmt: skip
        if guidance is not None and not 0 <= guidance < inf:
            raise ValueError(f"the guidance scale must be finite and not negative, got {guidance}: 1 or None is none")
        super().__init__(noise, images.shape[0] * images.shape[1], None, micro.device, network)
        self.network, self.reader, self.images, self.micro = network, reader, images, micro
        self.guidance, self.avoided = 1.0 if guidance is None else float(guidance), avoided

    def prepare(self, prompts: Sequence[str]) -> tuple[Denoiser, Tensor, Tensor]:
        """As `TextModel.prepare`; all positions of the canvases (B, L) are free."""
        canvas = self._blank(prompts)
        asked = Grid(self.network, self.noise, self.reader(prompts), self.images.shape, self.micro)
        given: Denoiser = asked
        if self.guidance != 1:
            other = replace(asked, text=replace(self.reader([self.avoided]), which=None))
            given = ClassifierFreeGuidance(asked, other, self.guidance)
        return given, canvas, torch.ones_like(canvas, dtype=torch.bool)

    def render(self, tokens: Tensor) -> Tensor:
        """(R, L) long -> images (R, 3, H, W) float32 in [0, 1]; what is masked is grey."""
        return self.images.render(tokens)

    def decode(self, tokens: Tensor) -> list[Any]:
        """Canvases (R, L) long -> R images of PIL; what is masked is grey."""
        return vq.pictures(self.render(tokens))

    def encode(self, texts: Sequence[Any] | Tensor) -> Tensor:
        """R images, as `ImageCodec.codes` takes them -> finished canvases (R, L) long."""
        return self.images.codes(texts).to(self.device)


def load(
    name: str | Path, *, revision: str | None = None, dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu", height: int | None = None, width: int | None = None,
    guidance: float | None = 10.0, avoided: str = "", original: tuple[int, int] | None = None,
    crop: tuple[int, int] = (0, 0), aesthetic: float = 6.0,
) -> ImageModel:  # fmt: skip
    """The model of images in a pipeline's folder or of a hub name, `height` x `width` pixels, its own unless given.
    `guidance` and `avoided` are those of `ImageModel`. The network is told, as in training, of the image's `original`
    (width, height) before it was cropped (its own unless given), the `crop`'s (top, left) and its `aesthetic` score.
    Raises `FileNotFoundError` for what is not there and `ValueError` for what cannot be read, parts that do not fit
    together, and a size that is no multiple of what the network needs."""
    require("diffusers", "images", "a model of images")
    import diffusers

    name = str(name)
    placing = {"dtype": dtype, "place": torch.device(device)}
    folder = fetched(name, FILES, revision=revision)
    file = folder / INDEX
    if not file.is_file() or read_json(file, name).get("_class_name", "").lower() not in FAMILY.reads:
        raise ValueError(f"{name} has no {INDEX} that names an AmusedPipeline: give the pipeline's whole folder")
    transformer, text = (vq.opened(folder, name, part, **placing) for part in ("transformer", "text_encoder"))
    images = vq.opened(folder, name, "vqvae", **placing | {"dtype": torch.float32})
    noise = _noise(folder, name, transformer)
    reader = Reader(folder / "tokenizer", text)
    network: Any = vq.network(diffusers.UVit2DModel, transformer)
    painter: Any = vq.network(diffusers.VQModel, images)
    _together(name, network.config, painter.config, reader.encoder.config)
    scale = 2 ** (len(painter.config.block_out_channels) - 1)
    own, step = network.config.sample_size * scale, scale * (2 if network.config.downsample else 1)
    size = (own if height is None else height, own if width is None else width)
    if min(size) < 1 or any(side % step for side in size):
        raise ValueError(f"{name} draws multiples of {step} pixels, got {size[0]} x {size[1]}: say height and width so")
    codec = ImageCodec(painter, (size[0] // scale, size[1] // scale), scale)
    told = torch.tensor([*(original or (size[1], size[0])), *crop, aesthetic], dtype=torch.float32, device=device)
    return ImageModel(Network(network), noise, reader, codec, told, guidance, avoided)


def _noise(folder: Path, name: str, transformer: Checkpoint) -> Noise:
    """The mask behind all other ids, and the schedule of the pipeline's own sampler."""
    config = read_json(folder / "scheduler" / "scheduler_config.json", f"{name}/scheduler")
    vocab, schedule = transformer.size("vocab_size"), config.get("masking_schedule", "cosine")
    if config.get("mask_token_id") != vocab - 1:
        told = f"the scheduler of {name} masks with {config.get('mask_token_id')}"
        raise ValueError(f"{told}, and its transformer was trained with {vocab - 1}: they are of different models")
    if schedule not in ("cosine", "linear"):
        raise ValueError(f"the scheduler of {name} has the schedule {schedule!r}: known are cosine and linear")
    return absorbing(vocab, vocab - 1, Schedule(schedule))


def _together(name: str, network: Any, painter: Any, text: Any) -> None:
    for what, given, wanted in (
        ("codes of the VQ model", painter.num_vq_embeddings, network.codebook_size),
        ("numbers of the text encoder's states", text.hidden_size, network.encoder_hidden_size),
        ("numbers of the text's embedding", text.projection_dim, network.cond_embed_dim),
        ("numbers of the micro-conditions", 5 * network.micro_cond_encode_dim, network.micro_cond_embed_dim),
    ):
        if given != wanted:
            told = f"{given} {what}, and its transformer reads {wanted}"
            raise ValueError(f"the parts of {name} do not belong together: {told}")
    if not painter.lookup_from_codebook or network.vocab_size <= network.codebook_size:
        raise ValueError(f"{name} has no lookup_from_codebook, or no room for a mask behind its codes: another family")
