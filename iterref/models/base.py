"""Base: what a text model is to the rest of the library: prompts in, a denoiser and canvases out, texts and back.

    prepare   prompts -> a denoiser of theirs, canvases, free positions          encode, decode   texts <-> canvases

`decode` gives strings that carry their tokens (`Text`), so that a model's own text goes back in as the tokens that it
was. A prompt that is a conversation is a string that carries its messages (`Chat`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from iterref.denoiser import Denoiser, carry_over_
from iterref.noise import Noise

MASKS = ("[MASK]", "<mask>")
ROLES = ("system", "user", "assistant")  # of a conversation


class Text(str):
    """A text with the `tokens` of the canvas that it was read from; a plain string in everything else."""

    tokens: tuple[int, ...]

    def __new__(cls, text: str, tokens: Sequence[int] = ()) -> Self:
        made = super().__new__(cls, text)
        made.tokens = tuple(tokens)
        return made


class Chat(str):
    """A conversation as a prompt: the text of its last message, with all `messages`, ("system" | "user" | "assistant",
    text) pairs, or dictionaries with `role` and `content`, of which the user has the last. A model with a chat template
    reads them all; what rewards see, and whoever takes it for a string, is the last one, or a `text` given for it.
    Raises `ValueError` for no messages, an unknown role, or one in which the user does not have the last word."""

    messages: tuple[tuple[str, str], ...]

    def __new__(cls, messages: Sequence[tuple[str, str] | Mapping[str, str]], text: str | None = None) -> Self:
        pairs = [(one.get("role"), one.get("content")) if isinstance(one, Mapping) else one for one in messages]
        said = list[tuple[str, str]]()
        for role, content in pairs:
            if role not in ROLES:
                raise ValueError(f"a message has the role {role!r}: it is one of {', '.join(ROLES)}")
            if not isinstance(content, str):
                raise ValueError(f"a message of the {role} is no text: give its content as one string")
            said.append((role, content))
        if not said or said[-1][0] != "user" or not said[-1][1].strip():
            raise ValueError("a conversation ends with what the user says, which the model answers: add that message")
        made = super().__new__(cls, said[-1][1] if text is None else text)
        made.messages = tuple(said)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:  # of a copy, which is a conversation, too
        return self.messages, str(self)


class Masked(Denoiser):
    """A masked denoiser whose network gives `logits`; `impossible` (K,) are tokens that, like the mask, no text has."""

    impossible: Tensor

    @abstractmethod
    def logits(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, L), (R,), (R, L) bool, (R,) -> raw logits (M, V) float32, which may be overwritten."""

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._posterior(x_t, t, where, rows, log=True)

    def probabilities(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._posterior(x_t, t, where, rows, log=False)

    def _posterior(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor, log: bool) -> Tensor:
        assert self.noise.mask is not None
        logits = self.logits(x_t, t, where, rows)
        logits[:, self.impossible] = -torch.inf
        return carry_over_(logits, x_t, where, self.noise.mask, log)


class TextModel(ABC):
    """A model of texts given prompts, on canvases of `length` positions. A family overrides what it does otherwise.
    `name` is what it was loaded by, for a reader; `draws_images` says that `decode` gives images; `ranks` counts the
    processes that compute the network together; `ends` are the tokens behind which a text is over; `fixed_length` says
    that the model knows no end, so that a text keeps its number of tokens; `masks` are what stands in a text for one
    token that is to be filled in; `continues` says that a text begins with its prompt, `chat` that prompts go into a
    chat template, so that a `Chat` may be one."""

    name: str = ""
    draws_images: ClassVar[bool] = False
    continues: ClassVar[bool] = False
    chat: bool = False
    ranks: int = 1
    ends: Sequence[int] = ()
    fixed_length: bool = False
    masks: Sequence[str] = MASKS
    noise: Noise
    length: int
    device: torch.device

    @abstractmethod
    def prepare(self, prompts: Sequence[str]) -> tuple[Denoiser, Tensor, Tensor]:
        """B prompts -> their denoiser, the canvas (B, L) long and its free positions (B, L) bool; refuses a prompt
        that it cannot read with a `ValueError` that names the row."""

    def with_length(self, max_new_tokens: int) -> TextModel:
        """The same model with answers of at most so many tokens, where it writes answers of any length."""
        told = "max_new_tokens= is for models that read a prompt and write an answer of any length"
        raise ValueError(f"{told}: this one has a canvas of {self.length} positions; leave it out, or say length= once")

    def compile(self, *, dynamic: bool = True, mode: str | None = None) -> None:
        """Has torch compile the network at first use, where there is one; `dynamic` lets sizes vary."""
        raise ValueError("this model has nothing that torch could compile: leave compile out")

    @abstractmethod
    def decode(self, tokens: Tensor) -> list[str]:
        """Finished canvases (R, L) long -> R texts, which carry their tokens (`Text`)."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """R texts -> finished canvases (R, L) long: those that a `Text` carries, else its pieces, end and filler.
        Raises `ValueError`, naming the text, for one that is too long or that the tokenizer cannot give back."""
        canvases = [self._carried(text) for text in texts]
        rows = [row for row, canvas in enumerate(canvases) if canvas is None]
        for row, canvas in zip(rows, self._canvases([texts[row] for row in rows], rows), strict=True):
            canvases[row] = canvas
        return torch.tensor(canvases, dtype=torch.long, device=self.device).view(-1, self.length)

    def readings(self) -> Mapping[str, TextModel]:
        """The same network under other conventions (frames of special tokens, filler), by name: `iterref check` says
        whether texts are likelier under one of them."""
        return {}

    def _canvases(self, texts: Sequence[str], rows: Sequence[int]) -> list[list[int]]:
        """The finished canvas of every text, called by its number in `rows` in messages."""
        raise NotImplementedError(f"{type(self).__name__} reads no texts: it needs _canvases or encode")

    def _carried(self, text: str) -> list[int] | None:
        """The canvas that a text came from, where it is one of this model's: it reads as that text."""
        if not isinstance(text, Text) or len(text.tokens) != self.length:
            return None
        tokens = torch.tensor([text.tokens], device=self.device)
        fits = int(tokens.min()) >= 0 and int(tokens.max()) < self.noise.vocab
        masked = self.noise.mask is not None and self.noise.mask in text.tokens
        return list(text.tokens) if fits and not masked and self.decode(tokens)[0] == text else None
