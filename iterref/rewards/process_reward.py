"""Process rewards: how likely a network holds each step of a text to be right.

    p_k    = p(good | x up to step k)                  read at the tag behind step k
    r(x)   = min_k p_k, mean_k p_k, p_K or prod_k p_k

The tag's probability is a token classifier's (as TRL trains process reward models), or that of one word against another
of a causal language model (Wang et al. 2024, arXiv:2312.08935, Math-Shepherd: "+" against "-" at a step tag). Which
summary: Lightman et al. 2024, arXiv:2305.20050, multiply; Wang et al. take the least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log, prod
from typing import Any, Literal

import torch
from torch import Tensor

from iterref.rewards.base import expect_choice
from iterref.rewards.checkpoint import Kind
from iterref.rewards.classifier import label_index
from iterref.rewards.network import Encoding, Pair, TextNetwork, numbers

Over = Literal["min", "mean", "last", "product"]
SUMMARIES: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min, "mean": lambda steps: sum(steps) / len(steps), "last": lambda steps: steps[-1], "product": prod,
}  # fmt: skip
TINY = 1e-30  # floor of a probability before its logarithm


@dataclass(eq=False, repr=False, kw_only=True)
class ProcessReward(TextNetwork[list[float]]):
    r"""How right the steps of a text are, as a text reward: `ProcessReward(folder)`, a number in [0, 1].

    `model` and the other options are as for every `TextNetwork`; `given="prompts"` puts the problem first. A text's
    steps are its parts between `step`s; behind each stands the `tag` (the `step` itself unless given), at whose last
    token the network is read. A token classifier says how likely the `label` is, by name or number (the last one unless
    given; a sigmoid where there is one alone). With the words `good` and `bad` the model is a causal one, and the
    number is p(good) against p(bad): `ProcessReward(folder, tag=" ки", good="+", bad="-")`. `over` makes one number of
    all steps, and `log` its logarithm. A text without any step is forbidden; steps beyond `length` are not judged.

    Raises as every `TextNetwork`, and ValueError for one of `good` and `bad` alone, or one that is not one token."""

    kind = "TokenClassification"

    over: Over = field(default="min", kw_only=False)
    step: str = "\n"
    tag: str | None = None
    label: str | int | None = None
    good: str | None = None
    bad: str | None = None
    log: bool = False

    def __post_init__(self) -> None:
        expect_choice(self.over, Over, "the steps have no summary")
        if not self.step or (self.good is None) != (self.bad is None):
            raise ValueError(f"step={self.step!r}, good={self.good!r}, bad={self.bad!r}: give a step, and both or none")
        super().__post_init__()
        self._tag = self._ids(self.step if self.tag is None else self.tag)
        if not self._tag:
            raise ValueError(f"the tag {self.tag!r} has no token in {self.checkpoint.name}: give another")
        if self.good is not None and self.bad is not None:
            self._words = [self._one(self.good), self._one(self.bad)]
        else:
            config = self.checkpoint.config
            last = max(map(int, config.id2label)) if self.label is None else self.label
            self._place = label_index(config, last, "log_probability" if len(config.id2label) > 1 else "logit")
        own = (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id)
        self._start = [token for token in own if token is not None][:1]

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        """R texts and the columns, each of R entries -> R numbers; -inf for a text without a step."""
        return numbers(self._joined(self.fetch(self.pairs(completions, columns))))

    def steps(self, completions: Sequence[str], **columns: Any) -> list[list[float]]:
        """The probability of each step of R texts."""
        return [found or [] for found in self.fetch(self.pairs(completions, columns))]

    def unfinished(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
        """As a call, for R texts that are still being written: what stands behind the last `step` is not judged yet,
        and a text none of whose steps is finished has no number."""
        whole = [text.rpartition(self.step)[0] for text in completions]
        return self._joined(self.fetch(self.pairs(whole, columns)))

    def encode(self, pairs: Sequence[Pair]) -> list[Encoding]:
        """The tokens of texts with a tag behind each step; `tagged` marks where the network is read."""
        return [self._encoding(before or "", text) for before, text in pairs]

    def read(self, batch: dict[str, Tensor]) -> list[list[float]]:
        tagged = batch.pop("tagged").bool()
        logits = self.checkpoint.network(**batch).logits[tagged].double()
        if self.good is not None:
            p = torch.softmax(logits[:, self._words], -1)[:, 0]
        elif logits.shape[1] == 1:
            p = logits.sigmoid()[:, 0]
        else:
            p = torch.softmax(logits, -1)[:, self._place]
        return [part.tolist() for part in p.split(tagged.sum(1).tolist())]

    def _encoding(self, before: str, text: str) -> Encoding:
        ids = self._start + self._ids(before)
        tagged = [0] * len(ids)
        for one in filter(str.strip, text.split(self.step)):
            written = self._ids(one)
            if len(ids) + len(written) + len(self._tag) > self._most:
                self.cut(text, len(ids) + len(written) + len(self._tag), 1)
                break
            ids = ids + written + self._tag
            tagged += [0] * (len(written) + len(self._tag) - 1) + [1]
        if not any(tagged):
            ids = tagged = []
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "tagged": tagged}

    def _joined(self, found: Sequence[list[float] | None]) -> list[float | None]:
        joined = [None if steps is None else SUMMARIES[self.over](steps) for steps in found]
        return [one if one is None or not self.log else log(max(one, TINY)) for one in joined]

    def _kind(self) -> Kind:
        return "TokenClassification" if self.good is None else "CausalLM"

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _one(self, word: str) -> int:
        """The token of a word: the last one, where a tokenizer puts a blank in front of it."""
        ids = self._ids(word)
        if not ids or self.tokenizer.decode(ids[-1:]).strip() != word.strip():
            raise ValueError(f"{word!r} is no one token of {self.checkpoint.name}: give a word that is")
        return ids[-1]


REWARD = ProcessReward
