"""Shapes: models to time, at random weights, always the same, but for tiny-news: a row costs the same whatever it says.

    random-2    a DiT of 2 layers, 256 wide, 8,192 tokens, 64 positions: small enough that overheads show
    tiny-news   the bundled summariser, prompts of ordinary words
    mdlm-170m   12 layers, 768 wide, 50,258 tokens: the shape of MDLM's checkpoints
    llada-8b    32 layers, 4,096 wide, 126,464 tokens: the shape of LLaDA's; 16 GB of weights as bfloat16

The reward is `free` (counts a token) or `rouge`: agreement with 16 texts a row, as with a pool of drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from iterref.models.bidirectional import Bidirectional
from iterref.models.dit import SCHEDULE, Dit, DitOptions
from iterref.models.mdlm import MaskedDit
from iterref.models.text.prompted import Filling
from iterref.models.tiny_news import Summarizer
from iterref.noise import Schedule, absorbing
from iterref.padding import Padded
from iterref.problem import Problem
from iterref.rewards.base import Reward
from iterref.rewards.consensus import Consensus
from iterref.rewards.text import TextReward

Judge = Literal["free", "rouge"]
Compiled = Literal["", "dynamic", "static"]
LENGTHS = {"random-2": 64, "tiny-news": 28, "mdlm-170m": 128, "llada-8b": 128}
DITS = {
    "random-2": DitOptions(vocab=8_192, width=256, blocks=2, heads=4, condition=64),
    "mdlm-170m": DitOptions(vocab=50_258, width=768, blocks=12, heads=12, condition=128),
}
LLADA: dict[str, Any] = {
    "vocab_size": 126_464, "hidden_size": 4_096, "intermediate_size": 12_288, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4_096, "use_cache": False,
}  # fmt: skip
WORDS = "police arrested two men after a long chase in london on monday night a court heard today".split()
DRAFTS = 16


@dataclass(frozen=True)
class Case:
    """A model to time: its `name`, the positions of a canvas (the shape's own unless given), where it runs, in which
    precision, whether it is compiled, for sizes of any kind or for a few (`static`), the reward that judges, the tokens
    of random weights and other sizes of their `shape` (the shape's own unless given).

    Raises `ValueError` for an unknown name, or for `rouge` or a length where they make no sense.
    """

    name: str
    length: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    judge: Judge = "free"
    compiled: Compiled = ""
    vocab: int | None = None
    shape: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.name not in LENGTHS:
            raise ValueError(f"there is no shape {self.name!r} to time: choose one of {', '.join(LENGTHS)}")
        if self.judge == "rouge" and self.name != "tiny-news":
            raise ValueError(f"{self.name} has random weights and no texts to compare: time rouge with tiny-news")
        if self.name == "tiny-news" and self.length is not None:
            raise ValueError("tiny-news has its own length: leave it out")
        if (self.vocab or self.shape) and self.name == "tiny-news":
            raise ValueError("tiny-news has its own vocabulary and sizes: leave them out")

    @property
    def positions(self) -> int:
        """The positions of a canvas."""
        return self.length or LENGTHS[self.name]

    def problem(self, rows: int) -> Problem:
        """The problem of so many rows."""
        if self.name == "tiny-news":
            prompts = sentences(rows)
            denoiser, canvas, _ = self._model.prepare(prompts)
            reward = agreement(prompts, self._model.decode) if self.judge == "rouge" else free
            return Problem(denoiser, reward, canvas, alpha=0.1)
        canvas = torch.full((rows, self.positions), self._model.noise.mask, device=self.device)
        return Problem(self._model, free, canvas, alpha=0.1, prompts=torch.zeros_like(canvas[:, 0]))  # no prompt

    @cached_property
    def _model(self) -> Any:
        """The text model of tiny-news, the denoiser of other shapes."""
        device, dtype = torch.device(self.device), getattr(torch, self.dtype)
        if self.name == "tiny-news":
            return Summarizer.load(None, device, "bfloat16" if self.dtype == "bfloat16" else "float32")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # else what is accepted, and so how much is computed, would differ between processes
            if self.name == "llada-8b":
                options = {**LLADA, **(self.shape or {}), "vocab_size": self.vocab or LLADA["vocab_size"]}
                made = llada(options, self.positions, dtype, device)
            else:
                own = DITS[self.name]
                made = dit(replace(own, vocab=self.vocab or own.vocab, **(self.shape or {})), dtype, device)
        if self.compiled:
            made.network.compile(dynamic=self.compiled == "dynamic", mode=self._graphs)
        return Padded(made) if self.compiled == "static" else made

    @property
    def _graphs(self) -> str | None:
        """How torch compiles: with CUDA graphs where shapes are the same again and again."""
        return "reduce-overhead" if self.compiled == "static" and self.device.startswith("cuda") else None


def usual(device: str) -> list[Case]:
    """The cases that are timed unless others are named: small ones on a CPU, the published shapes on a GPU."""
    if device == "cpu":
        return [Case("random-2"), Case("tiny-news"), Case("tiny-news", judge="rouge")]
    shapes = ("mdlm-170m", "llada-8b")
    return [Case(name, length, device, "bfloat16") for name in shapes for length in (128, 1024)]


def dit(options: DitOptions, dtype: torch.dtype, device: torch.device) -> MaskedDit:
    """A DiT at random weights, its last token the mask."""
    with device:
        network = Dit(options)
    for name, weight in network.named_parameters():
        if "norm" not in name:
            weight.data = torch.nn.init.normal_(weight.data, std=0.05).to(dtype)
    noise = absorbing(options.vocab, options.vocab - 1, SCHEDULE)
    none = torch.empty(0, dtype=torch.long, device=device)
    return MaskedDit(network.eval().requires_grad_(False), noise, none, timed=False)


def llada(options: dict[str, Any], length: int, dtype: torch.dtype, device: torch.device) -> Any:
    """LLaDA's stack at random weights, without a prompt."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with device:
        usual = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = LlamaForCausalLM(LlamaConfig(**options)).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(usual)
    noise = absorbing(options["vocab_size"], schedule=Schedule("linear"))
    none = torch.empty(0, dtype=torch.long, device=device)
    return Filling(Bidirectional(model, causal=True), noise, none, length)([[]])


def free(tokens: Tensor, rows: Tensor) -> Tensor:
    """A reward that costs next to nothing: how often token 7 stands in a text."""
    return (tokens == 7).sum(1).double()


def agreement(prompts: Sequence[str], decode: Callable[[Tensor], list[str]]) -> Reward:
    """ROUGE-L with a pool of texts a row: parts of its prompt."""
    pools = [[" ".join(prompt.split()[at:] + prompt.split()[:at][: at // 2]) for at in range(DRAFTS)]
             for prompt in prompts]  # fmt: skip
    return TextReward(Consensus(pools), decode)


def sentences(rows: int) -> list[str]:
    """So many different sentences of ordinary words."""
    return [" ".join(WORDS[(row + 5 * place + row // 16 * place) % 16] for place in range(20)) for row in range(rows)]
