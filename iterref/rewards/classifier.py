"""Classifier: how sure a sequence classifier of `transformers` is that a text has a label.

    log_probability  log p(label | x)         softmax over the labels, or a sigmoid each for a multi-label classifier
    probability      p(label | x)
    logit            the network's own number: unbounded, and what reward models with one output give

The log-probability is the reward of the steering literature: with it and alpha = 1 the target is Bayes' rule,
p(x) p(label | x) (Dathathri et al. 2020, arXiv:1912.02164; Singhal et al. 2025, arXiv:2501.06848).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from iterref.rewards.base import expect_choice
from iterref.rewards.calling import messages
from iterref.rewards.network import Encoding, Pair, TextNetwork

Measure = Literal["log_probability", "probability", "logit"]


@dataclass(eq=False, repr=False, kw_only=True)
class Classifier(TextNetwork[float]):
    """A label's log-probability, probability or logit of a text, as a text reward: `Classifier(folder, "positive")`.

    `model` and the other options are as for every `TextNetwork`; "sentiment" and "sentiment-judge" are bundled. `label`
    is a name, found in any case, or else a number; None where there is one output only. What stands before the text
    (`given`) may be "prompts", or the premise of an entailment. With `chat` the text is the assistant's in the
    tokenizer's chat template, behind what is given, the user's: reward models of conversations are trained so, and one
    output beside a template has to say which it is."""

    kind = "SequenceClassification"

    label: str | int | None = field(default=None, kw_only=False)
    value: Measure = "log_probability"
    chat: bool | None = None

    def __post_init__(self) -> None:
        expect_choice(self.value, Measure, "a classifier has no value")
        super().__post_init__()
        config, template = self.checkpoint.config, getattr(self.tokenizer, "chat_template", None)
        if self.chat is None and template and len(config.id2label) == 1:
            told = f"{self.checkpoint.name} has one output and a chat template, as reward models of conversations"
            raise ValueError(f"{told}: say chat=True, with given='prompts', or chat=False, where it reads plain texts")
        if self.chat and not template:
            raise ValueError(f"the tokenizer of {self.checkpoint.name} has no chat template: leave chat=True out")
        self.label = self._place = label_index(config, self.label, self.value)
        self.separate = has_sigmoids(config)
        config.get_text_config().pad_token_id = self.fill  # by which causal classifiers find the last token of a text

    def pairs(self, completions: Sequence[str], columns: dict[str, Any]) -> list[Pair]:
        pairs = super().pairs(completions, columns)
        if not self.chat:
            return pairs
        before = [[] if given is None else messages("user", given) for given, _ in pairs]
        said = [[*given, *messages("assistant", text)] for given, (_, text) in zip(before, pairs, strict=True)]
        return [(None, self.tokenizer.apply_chat_template(one, tokenize=False)) for one in said]

    def read(self, batch: dict[str, Tensor]) -> list[float]:
        logits = self.checkpoint.network(**batch).logits
        return judged(logits, self.value, self.separate)[:, self._place].tolist()

    def _tokens(self, pairs: Sequence[Pair], **options: Any) -> list[Encoding]:
        """As every network's; a template has written the special tokens already."""
        return super()._tokens(pairs, **({"add_special_tokens": False} if self.chat else {}), **options)


def judged(logits: Tensor, value: Measure, separate: bool = False) -> Tensor:
    """Logits (R, labels) -> the labels' values, float64; `separate` where each label has a sigmoid of its own."""
    logits = logits.double()
    if value == "logit":
        return logits
    log_p = logsigmoid(logits) if separate else torch.log_softmax(logits, -1)
    return log_p.exp() if value == "probability" else log_p


def has_sigmoids(config: Any) -> bool:
    """Whether each label of a classifier has a sigmoid of its own."""
    return getattr(config, "problem_type", None) == "multi_label_classification"


def label_index(config: Any, label: str | int | None, value: Measure) -> int:
    """The number of a label, given by name, or else by number. Raises `ValueError` with the names that there are, and
    for probabilities of a regression, which has none."""
    names = _names(config)
    listed = ", ".join(f"{name!r}" for name in list(names.values())[:20]) + (", ..." if len(names) > 20 else "")
    problem = getattr(config, "problem_type", None)
    if problem not in (None, "regression", "single_label_classification", "multi_label_classification"):
        raise ValueError(f"the classifier has the problem type {problem!r}, which is not known here: give another")
    regression = problem == "regression" or (len(names) == 1 and problem != "multi_label_classification")
    if regression and value != "logit":
        count = "one output" if len(names) == 1 else f"{len(names)} outputs of a regression"
        raise ValueError(f"the classifier has {count}, {listed}, and no probabilities: say value='logit'")
    if label is None:
        if len(names) > 1:
            raise ValueError(f"the classifier has {len(names)} labels, choose one of {listed}")
        return next(iter(names))
    written = str(label)
    found = [index for index, name in names.items() if name == written]
    found = found or [index for index, name in names.items() if name.lower() == written.lower()]
    number = int(written) if written.isdecimal() and int(written) in names else None
    if isinstance(label, int) and found and number is not None and found != [number]:
        told = f"label {label} is the number of {names[number]!r} and the name of number {found[0]}"
        raise ValueError(f"{told}: give a string")
    found = found or ([] if number is None else [number])
    if len(found) != 1:
        raise ValueError(f"there is no label {label!r}: choose one of {listed}, or a number below {len(names)}")
    return found[0]


def _names(config: Any) -> dict[int, str]:
    """The labels by number. Raises `ValueError` where the two tables of a configuration contradict each other."""
    names = {int(index): str(name) for index, name in config.id2label.items()}
    other = {int(index): str(name) for name, index in (getattr(config, "label2id", None) or {}).items()}
    plain = {index: f"LABEL_{index}" for index in names}
    if names == plain and set(other) == set(names):
        return other
    if other not in (names, {}) and other != plain and set(other) == set(names):
        raise ValueError(f"the classifier's labels are {names} and by name {other}: correct its config.json")
    return names


REWARD = Classifier
DEFAULT = "sentiment:positive"
JUDGES = "ForSequenceClassification"
