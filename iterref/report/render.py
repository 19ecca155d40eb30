"""Render: how tokens are shown, as words or as a picture.

    show     a function from a token's id to its text;   a tokenizer, or a model that has one;   a model that draws
    picture  model.render(tokens): (R, L) long -> (R, C, H, W) floats in [0, 1], C = 1 grey or 3 colours

A model is shown by its method `render`, else its `tokenizer` or `codec.tokenizer`, else by ids.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from iterref.optional import require

Render = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rendering:
    """Tokens as words, by `name`, or canvases as pictures, by `render`; as their ids where there is neither."""

    name: Callable[[int], str] | None = None
    render: Render | None = None

    def pixels(self, tokens: Tensor) -> Tensor:
        """Canvases (R, L) long as pictures (R, H, W, 3) uint8. Raises `ValueError` for a drawing of another form."""
        assert self.render is not None
        with torch.inference_mode():
            drawn = self.render(tokens).detach().float().cpu()
        if drawn.dim() != 4 or len(drawn) != len(tokens) or drawn.shape[1] not in (1, 3):
            told = f"render drew {tuple(drawn.shape)} of {len(tokens)} canvases"
            raise ValueError(f"{told}: return (canvases, 1 or 3, height, width)")
        return (drawn.clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous()


def choose_rendering(show: Any) -> Rendering:
    """How tokens are shown by whatever says it: None, `Rendering`, a function of an id, a tokenizer, or a model. Raises
    `TypeError` for anything else."""
    if show is None or isinstance(show, Rendering):
        return show or Rendering()
    if callable(getattr(show, "render", None)):
        return Rendering(render=show.render)
    # what may be a tokenizer: its own, and, unless that is one, the tokenizer of its codec
    codec = getattr(show, "codec", None)
    for tokenizer in (getattr(show, "tokenizer", show), getattr(codec, "tokenizer", codec)):
        tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)  # what `transformers` wraps
        if hasattr(tokenizer, "id_to_token") and hasattr(tokenizer, "decode"):
            return Rendering(name=Spelled(tokenizer))
    if hasattr(show, "prepare"):  # a model that does not say
        return Rendering()
    if callable(show):
        return Rendering(name=show)
    how = "give a model, a tokenizer, or a function from a token's id to its text"
    raise TypeError(f"show is a {type(show).__name__}: {how}")


@dataclass(frozen=True)
class Spelled:
    """The text that a token of a tokenizer of `tokenizers` adds behind a word, its name where that is nothing."""

    tokenizer: Any

    def __call__(self, token: int) -> str:
        known = str(self.tokenizer.id_to_token(token) or token)
        if token in self.tokenizer.get_added_tokens_decoder():
            return f" {known}"
        word = self.tokenizer.encode("a", add_special_tokens=False).ids[-1:]
        before, text = (self.tokenizer.decode(ids, skip_special_tokens=False) for ids in (word, [*word, token]))
        # Half a character, or a token that changes the word before it, is better called by its name.
        whole = text.startswith(before) and len(text) > len(before) and "\ufffd" not in text
        return text[len(before) :] if whole else known


def png(pixels: Tensor, least: int = 1) -> str:
    """A picture (H, W, 3) uint8 as the address of an image that holds it whole, repeated to `least` pixels a side."""
    require("PIL", "images", "a page with pictures")
    from PIL import Image

    image, written = Image.fromarray(pixels.numpy()), BytesIO()
    by = -(-least // min(image.size))
    image.resize((image.width * by, image.height * by), Image.Resampling.NEAREST).save(written, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(written.getvalue()).decode()}"


def smaller(pixels: Tensor, side: int) -> Tensor:
    """A picture (H, W, 3) uint8 of at the most `side` pixels a side."""
    from PIL import Image

    image = Image.fromarray(pixels.numpy())
    image.thumbnail((side, side))
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
