"""Perplexity: how likely a text is under a causal language model.

    log_likelihood  sum_i log p(x_i | x_<i) / n      the mean over the n tokens of the text, minus the log of perplexity
    sum             sum_i log p(x_i | x_<i)          with alpha = 1 the product of the two models' distributions
    perplexity      -exp(-log_likelihood)            minus, so that more is better; long tails, so clip it

Tokens are the language model's own, so its perplexity is not that of another model's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from iterref.rewards.base import expect_choice
from iterref.rewards.checkpoint import Checkpoint
from iterref.rewards.network import Encoding, Pair, TextNetwork

Measure = Literal["log_likelihood", "sum", "perplexity"]


@dataclass(eq=False, repr=False, kw_only=True)
class Perplexity(TextNetwork[float]):
    """The likelihood of a text under a causal language model, as a text reward: `Perplexity("gpt2")`.

    `model` and the other options are as for every `TextNetwork`; "prose" is bundled. With `start` the tokenizer's start
    token stands first, so that the first token of a text counts too; without one, or where the tokenizer has none, the
    likelihood is that of the other tokens given the first. What stands before the text (`given`) does not count: the
    likelihood is conditional on it (the two are tokenised apart). Too long a text is cut at the front of what is given,
    then at its end. A network that looks at later tokens is refused."""

    kind = "CausalLM"

    value: Measure = "log_likelihood"
    start: bool = True

    def __post_init__(self) -> None:
        expect_choice(self.value, Measure, "a likelihood has no value")
        super().__post_init__()
        first = self.tokenizer.bos_token_id if self.start else None
        self._start: list[int] = [] if first is None else [first]
        _check_causal(self.checkpoint, self._known)

    def encode(self, pairs: Sequence[Pair]) -> list[Encoding]:
        """The tokens of texts behind the start and what is given; `counted` marks those whose likelihood counts."""
        texts = self.tokenizer([text for _, text in pairs], add_special_tokens=False, verbose=False)["input_ids"]
        before = [prefix or "" for prefix, _ in pairs]
        prefixes = self.tokenizer(before, add_special_tokens=False, verbose=False)["input_ids"]
        return [self._encoding(pair[1], *ids) for pair, *ids in zip(pairs, prefixes, texts, strict=True)]

    def read(self, batch: dict[str, Tensor]) -> list[float]:
        counted = batch.pop("counted")[:, 1:].bool()
        tokens = batch["input_ids"][:, 1:]
        logits = self.checkpoint.network(**batch).logits[:, :-1]
        log_p = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
        chosen = logits[counted]  # what counts only: no wide table of the padding's log-probabilities
        chosen = chosen if chosen.dtype == torch.float64 else chosen.float()
        picked = chosen.gather(1, tokens[counted][:, None])[:, 0].double()
        log_p[counted] = picked - chosen.logsumexp(-1).double()
        total, size = log_p.sum(1), counted.sum(1)
        values = total if self.value == "sum" else total / size
        return (-values.neg().clamp_max(230.0).exp() if self.value == "perplexity" else values).tolist()

    def _encoding(self, written: str, prefix: list[int], text: list[int]) -> Encoding:
        size = len(self._start) + len(prefix) + len(text)
        if size > self._most:
            self.cut(written, size, 1)
            prefix = prefix[min(size - self._most, len(prefix)) :]
            text = text[: self._most - len(self._start) - len(prefix)]
        before = [*self._start, *prefix]
        ids = before + text
        counted = [0] * len(before) + [1] * len(text)
        counted[:1] = [0]  # nothing stands before the first token, so nothing says how likely it is
        if not any(counted):
            ids = counted = []
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "counted": counted}


def _check_causal(checkpoint: Checkpoint, vocab: int) -> None:
    """Refuses a network whose answer at a token depends on a later one: its likelihoods would be those of a copy."""
    tokens = torch.zeros(2, 3, dtype=torch.long, device=checkpoint.device)
    tokens[1, 2] = vocab - 1
    with checkpoint.judging():
        one, other = checkpoint.network(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[:, :2].float()
    if not torch.allclose(one, other, atol=1e-4 * float(one.abs().max().clamp_min(1e-6)), rtol=0):
        raise ValueError(f"{checkpoint.name} looks at later tokens, so it is no causal language model: give one")


REWARD = Perplexity
DEFAULT = "prose"
JUDGES = "ForCausalLM"
