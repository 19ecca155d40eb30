"""Text rewards: a function of texts, as people write for reward training, made a reward of tokens.

r(x) = f(decode(x), prompt and columns of the row of x)

A row has a place in the call, by which its prompt and columns are found, and an identity in the user's input, which is
what every reward sees as `rows`, whatever job, chunk or worker the row is in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from iterref.columns import read_columns
from iterref.rewards.algebra import (
    Batch,
    Composable,
    TextCombined,
    TextComposable,
    TokenReward,
    as_reward,
    values_states,
)
from iterref.rewards.base import UNJUDGED, Reward, RewardError, verified
from iterref.rewards.calling import FILLED, judges_tokens, plan
from iterref.rewards.partial import PartialOfTokens
from iterref.rewards.rules import may_skip

Decode = Callable[[Tensor], list[str]]


class TextReward(Composable):
    """A callable on texts, in the convention of TRL's reward functions, as a reward of tokens.

    `function(completions, prompts=..., **columns)` takes a list of R texts and returns R numbers; it gets what its
    signature names, or everything with `**kwargs`. `decode` makes R texts of tokens (R, L) long; `prompts` and every
    column hold one entry a row. A parameter called `rows` gets the rows' `identities` (B,) in the user's input (their
    places unless given), `prompt_index` their places among the prompts, `completion_ids` the tokens of each text up to
    its end, as `ids` (tokens (R, L), R texts -> R lists) cuts them. Raises ValueError for columns of different lengths
    or of a reserved name, and for one that is missing."""

    checks: ClassVar[bool] = True

    def __init__(
        self,
        function: Callable[..., Any],
        decode: Decode,
        prompts: Sequence[str] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
        *,
        identities: Tensor | None = None,
        ids: Callable[[Tensor, list[str]], list[list[int]]] | None = None,
        counted: tuple[str, ...] = (),
    ) -> None:
        table: dict[str, Any] = dict(columns or {})
        for name in ("completions", "prompts", *FILLED):
            if name in table:
                raise ValueError(f"a column may not be called {name!r}, which the library fills itself: rename it")
        if prompts is not None:
            table["prompts"] = prompts
        sizes = {name: len(column) for name, column in table.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"prompts and columns need one entry a row, but their lengths are {sizes}")
        self.function, self.decode, self.identities, self.ids = function, decode, identities, ids
        self.has_partial, self._table = values_states(function), table
        self._value = function.partial if self.has_partial and isinstance(function, TextComposable) else function
        self._size = next(iter(sizes.values()), None)
        names = plan(function, {*table, *counted}).names
        found = read_columns({name: column for name, column in table.items() if name in names}, self._size or 0)
        self._columns, self._wants_ids = found, "completion_ids" in names
        self._listed = {*found, *FILLED, *counted}

    @cached_property
    def _unfinished(self) -> TextReward:
        columns = {name: column for name, column in self._table.items() if name not in ("prompts", "masked")}
        return TextReward(
            self._value, self.decode, self._table.get("prompts"), columns,
            identities=self.identities, ids=self.ids, counted=("masked",),
        )  # fmt: skip

    def partial(self, tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
        """The values of unfinished texts, which leave out what is masked (R, L) bool, or of the tokens themselves."""
        if judges_tokens(self._value):
            states = PartialOfTokens(self, self._value)
            return TokenReward(states, self.identities).partial(tokens, masked, rows)
        return self._unfinished(tokens, rows, masked=masked.sum(1).tolist())

    def __call__(self, tokens: Tensor, rows: Tensor, **counted: list[int]) -> Tensor:
        places: list[int] = rows.tolist()
        if self._size is not None and places and not 0 <= min(places) <= max(places) < self._size:
            raise RewardError(f"row {max(places)} was asked for, but prompts and columns hold {self._size} rows")
        texts = self.decode(tokens)
        if len(texts) != len(places):
            raise RewardError(f"decode gave {len(texts)} texts for {len(places)} rows: return one text a row")
        named = rows.cpu() if self.identities is None else self.identities.cpu()[rows.cpu()]
        table: dict[str, Any] = {name: [column[place] for place in places] for name, column in self._columns.items()}
        table |= {"rows": named.tolist(), "prompt_index": places} | counted
        if self._wants_ids:
            table["completion_ids"] = tokens.tolist() if self.ids is None else self.ids(tokens, texts)
        batch, everyone = Batch(named, tokens, texts, table, self._listed), torch.arange(len(rows))
        function = self.function
        if isinstance(function, TextCombined):
            ask = partial(batch.ask, function.parts, may_skip(function.rule))  # as `ask`, a frame less
            return verified(function.rule(ask, everyone), named, batch.describe, nan=UNJUDGED).to(tokens.device)
        return batch.ask((function,), False, 0, everyone).to(tokens.device)


def bind_reward(reward: Any, as_text: Callable[[Any], Reward], identities: Tensor | None) -> Reward:
    """A reward of tokens from whatever `generate` takes: a reward or function of tokens or texts, or a mixture.
    `as_text` makes the `TextReward` of a function; `identities` (B,) are those of the rows. Raises ValueError for a
    function that needs a column that is not there, and for a network in place of a function."""
    if isinstance(reward, torch.nn.Module):
        raise ValueError(f"the reward is a network ({type(reward).__name__}): pass rewards.Classifier(network, ...)")
    if type(reward).__module__.startswith("transformers.pipelines"):
        told = f"the reward is a {type(reward).__name__} of transformers, which gives labels with their scores"
        raise ValueError(f"{told}: pass rewards.Classifier(it.model, LABEL, tokenizer=it.tokenizer)")
    if not isinstance(reward, Composable) and not judges_tokens(reward):
        return as_text(reward)
    if identities is None or torch.equal(identities.cpu(), torch.arange(len(identities))):
        return as_reward(reward)
    return TokenReward(reward, identities)


def text_ids(tokens: Tensor, texts: Sequence[str], blank: Tensor | None, ends: Collection[int] = ()) -> list[list[int]]:
    """The tokens of each text up to its end, from canvases (R, L): what stands in front of the first of `ends`, or of
    what ends and fills the canvas of the empty text, `blank` (L,); all of them where nothing is known."""
    canvas = [] if blank is None else blank.tolist()
    closed = torch.zeros_like(tokens, dtype=torch.bool)
    for end in {*canvas[1:], *ends}:
        closed |= tokens == end
    # a text that begins with the empty canvas' first token begins with a start token, which may end texts, too
    heads = tokens[:, 0] == canvas[0] if canvas else torch.zeros_like(closed[:, 0])
    closed[:, 0] &= ~heads
    lengths = torch.where(closed.any(1), closed.byte().argmax(1), tokens.shape[1])
    cells = zip(tokens.tolist(), texts, heads.tolist(), lengths.tolist(), strict=True)
    return [ids[head:end] if text else [] for ids, text, head, end in cells]
