"""The algebra of rewards: weighted sums, bounds, conditions and standardisation of rewards of tokens and of texts.

    (0.7 a + 0.3 b)(x) = 0.7 a(x) + 0.3 b(x)              a / 2,  a - b,  -a  likewise
    a.clip(low, high)(x) = min(max(a(x), low), high)      a forbidden text, a(x) = -inf, stays forbidden
    a.where(b > 0)(x) = a(x) where b(x) > 0, else -inf    or else another number or reward
    a.standardised(pilot)(x) = (a(x) - mean) / sd         mean and sd over the finite rewards of the pilot, frozen

A rule knows numbers only; `Combined` asks rewards of tokens for them, `TextCombined` functions of texts.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property, partial, partialmethod
from math import inf, isinf, isnan
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor

from iterref.rewards.base import UNJUDGED, Reward, RewardError, gather, guarded, verified
from iterref.rewards.calibrate import pilot_rewards
from iterref.rewards.calling import TextFunction, call, columns_of, finished, judges_tokens, plan
from iterref.rewards.rules import Rule, Sum, clip, compare, join, may_skip, negate, standardise, where


class Algebra:
    """Gives a reward its operators: `0.7 * fluent + 0.3 * short`, `a.clip(-5, 5)`, `a.where(b > 0)`."""

    def __add__(self, other: Any) -> Any:
        return _total((*_terms(self), *_terms(other)))

    def __radd__(self, other: Any) -> Any:
        return self if type(other) is int and other == 0 else _total((*_terms(other), *_terms(self)))  # 0: of `sum`

    def __sub__(self, other: Any) -> Any:
        return _total((*_terms(self), *_terms(other, -1.0)))

    def __rsub__(self, other: Any) -> Any:
        return _total((*_terms(other), *_terms(self, -1.0)))

    def __neg__(self) -> Any:
        return self * -1.0

    def __mul__(self, scale: float) -> Any:
        return _total(_terms(self, _number(scale, "scaled by")))

    __rmul__ = __mul__

    def __truediv__(self, scale: float) -> Any:
        return self * (1.0 / _number(scale, "divided by", zero=False))

    def _compared(self, how: Callable[[Any, Any], Any], other: Any) -> Condition:
        if callable(other):
            return Condition(partial(compare, how, None), (self, other))
        return Condition(partial(compare, how, _number(other, "compared with", True)), (self,))

    __gt__ = partialmethod(_compared, operator.gt)
    __ge__ = partialmethod(_compared, operator.ge)
    __lt__ = partialmethod(_compared, operator.lt)
    __le__ = partialmethod(_compared, operator.le)

    def clip(self, low: float = -inf, high: float = inf) -> Any:
        """The reward kept within [low, high]; a forbidden text stays so. Raises ValueError unless low <= high."""
        if not low <= high:
            raise ValueError(f"a reward cannot be kept between {low} and {high}: give low <= high")
        return combined(partial(clip, float(low), float(high)), (self,))

    def where(self, condition: Condition, otherwise: Any = -inf) -> Any:
        """The reward, asked only where the condition holds; elsewhere `otherwise`, a number or a reward."""
        if not isinstance(condition, Condition):
            raise TypeError(f"where needs a condition such as b > 0, got {condition!r}: compare a reward with a number")
        if callable(otherwise):
            return combined(partial(where, condition.test, None), (self, otherwise, *condition.parts))
        number = _number(otherwise, "replaced by", True)
        return combined(partial(where, condition.test, number), (self, *condition.parts))

    def standardised(self, pilot: Any) -> Any:
        """(reward - mean) / sd, so that rewards of different units can be added: mean and sd of the finite ones of a
        `pilot`, this very reward of unguided samples, as numbers or as the `Result` of a run ("ancestral"). Raises
        ValueError where these do not differ."""
        values = pilot_rewards(pilot)
        values = values[values > -inf]
        if len(values) < 2 or not values.std() > 0:
            told = f"a pilot of {len(values)} finite rewards"
            raise ValueError(f"{told} has no spread to standardise by: draw more samples")
        return combined(partial(standardise, float(values.mean()), float(values.std(ddof=1))), (self,))


class Composable(Algebra, ABC):
    """A reward of tokens with the operators of the algebra; `checks` says that what it answers has been checked, and
    `has_partial` that it has values of unfinished states, too."""

    checks: ClassVar[bool] = False
    has_partial: bool = False

    @abstractmethod
    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) float64."""

    def partial(self, tokens: Tensor, masked: Tensor, rows: Tensor) -> Any:
        """(R, L) long, (R, L) bool, (R,) long -> (R,): what reward is to come of unfinished states. `masked` cells are
        open; they hold the mask, or noise where there is no mask."""
        raise NotImplementedError(f"{type(self).__qualname__} has no values of unfinished states")


class TextComposable(Algebra, TextFunction):
    """A reward of texts, `reward(completions, **columns)` -> R numbers, with the operators of the algebra.

    They accept plain functions of texts beside it, and rewards of tokens: such a mixture is what `generate` takes."""

    has_partial: bool = False

    def partial(self, completions: Sequence[str], **columns: Any) -> Any:
        """R unfinished texts, which leave out what is masked, and the columns -> R numbers: what reward is to come of
        each. A parameter called `masked` gets how many positions are open in each."""
        raise NotImplementedError(f"{type(self).__qualname__} has no values of unfinished texts")

    @property
    def __name__(self) -> str:
        """What trainers that log a reward function call it."""
        return type(self).__qualname__


@dataclass(frozen=True, eq=False)
class TokenReward(Composable):
    """A function of (tokens, rows), its answers checked. It gets copies, which it may write into, and `identities` (B,)
    of the rows in the user's input in place of their numbers, if given."""

    checks: ClassVar[bool] = True

    function: Callable[[Tensor, Tensor], Any]
    identities: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_partial", values_states(self.function))

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        rows = rows if self.identities is None else self.identities.to(rows.device)[rows]
        with guarded(rows):
            answer = gather(self.function(tokens.clone(), rows.clone()))
        return verified(answer, rows, lambda place: Batch(rows, tokens).describe(place)).to(tokens.device)

    def partial(self, tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
        function: Any = self.function
        return TokenReward(lambda x, of: function.partial(x, masked.clone(), of), self.identities)(tokens, rows)


def as_reward(reward: Reward) -> Reward:
    """A reward of tokens whose answers are checked: itself, where it checks them."""
    return reward if isinstance(reward, Composable) and reward.checks else TokenReward(reward)


def values_states(reward: Any, as_texts: bool = False) -> bool:
    """Whether a reward, of tokens or of texts, declares values of unfinished states; `as_texts`, of their texts."""
    declared = isinstance(reward, Composable | TextComposable) and reward.has_partial
    return declared and not (as_texts and _of_tokens(reward.partial))


def unfinished(reward: Any) -> TokenReward:
    """The values of unfinished states as a reward of tokens, where a masked cell holds ~token, which is negative: so
    they are remembered, combined and split into portions as rewards are. Raises `ValueError` for a reward without."""
    if not isinstance(reward, Composable) or not reward.has_partial:
        told = f"value=partial needs values of unfinished states, and {type(reward).__qualname__} declares none"
        raise ValueError(f"{told}: give rewards.with_partial(reward, value)")
    return TokenReward(lambda x, rows: reward.partial(torch.where(x < 0, ~x, x), x < 0, rows))


@dataclass(frozen=True)
class Batch:
    """What one call of a reward is about: (R,) rows, tokens (R, L), texts, and a table of what belongs to them, of
    which `listed` names the columns with one entry each."""

    rows: Tensor
    tokens: Tensor | None = None
    texts: list[str] | None = None
    table: Mapping[str, Any] = field(default_factory=dict)
    listed: AbstractSet[str] = frozenset()

    def at(self, index: Tensor) -> Batch:
        """Some of the rows, (K,) long, in order."""
        if len(index) == len(self.rows):
            return self
        places, table, tokens = index.tolist(), self.table, self.tokens
        return Batch(
            self.rows[index.to(self.rows.device)],
            None if tokens is None else tokens[index.to(tokens.device)],
            None if self.texts is None else [self.texts[place] for place in places],
            {name: [one[place] for place in places] if name in self.listed else one for name, one in table.items()},
            self.listed,
        )

    def describe(self, place: int) -> str:
        """A text, or its tokens, for an error."""
        if self.texts is not None or self.tokens is None:
            return f"text {(self.texts or [])[place]!r}"
        return f"tokens {self.tokens[place].tolist()}"

    def ask(self, parts: tuple[Callable[..., Any], ...], skips: bool, part: int, index: Tensor) -> Tensor:
        """The checked answers (K,) float64 of one of several rewards at `index` (K,); `skips` accepts None, as NaN."""
        function, here = parts[part], self.at(index)
        if isinstance(function, Combined | TextCombined):
            ask = partial(here.ask, function.parts, may_skip(function.rule))
            values = function.rule(ask, torch.arange(len(here.rows)))
            return verified(values, here.rows, here.describe, nan=UNJUDGED)
        with guarded(here.rows):
            if here.tokens is not None and (here.texts is None or _of_tokens(function)):
                answer = gather(function(here.tokens.clone(), here.rows.to(here.tokens.device, copy=True)))
            else:
                texts, how = here.texts or [], plan(function, here.table)
                as_texts, (positional, named) = not how.messages, how.arguments(texts, here.table)
                try:
                    answer = finished(function(*positional, **named))  # as `call`, a frame less
                    again = as_texts and how.noticed()
                except (TypeError, AttributeError, KeyError) as error:
                    if not (again := how.learn(error)):
                        raise
                answer = call(function, texts, here.table) if again else answer
        return verified(answer, here.rows, here.describe, skips)


@dataclass(frozen=True)
class Combined(Composable):
    """A rule over rewards of tokens."""

    checks: ClassVar[bool] = True

    rule: Rule
    parts: tuple[Reward, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_partial", all(map(values_states, self.parts)))

    def partial(self, tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
        """The rule of the parts' values."""
        return Combined(self.rule, tuple(map(unfinished, self.parts)))(torch.where(masked, ~tokens, tokens), rows)

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        batch, everyone = Batch(rows, tokens), torch.arange(len(rows))
        values = self.rule(partial(batch.ask, self.parts, may_skip(self.rule)), everyone)  # as `ask`, a frame less
        return verified(values, rows, batch.describe, nan=UNJUDGED).to(tokens.device)


@dataclass(frozen=True)
class TextCombined(TextComposable):
    """A rule over functions of texts, itself one: each part gets the columns that its signature names."""

    rule: Rule
    parts: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "functions", tuple(part for part in self.parts if not _of_tokens(part)))
        object.__setattr__(self, "has_partial", all(values_states(part, True) for part in self.parts))

    @cached_property
    def partial(self) -> TextCombined:
        """The rule of the parts' values of unfinished texts, a function as `TextComposable.partial` is."""
        return TextCombined(self.rule, tuple(part.partial for part in self.parts))

    @property
    def mixed(self) -> bool:
        """Whether some part judges tokens, so that only a `TextReward`, which has them, can ask it."""
        return any(part.mixed if isinstance(part, TextCombined) else _of_tokens(part) for part in self.parts)

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        if self.mixed:
            raise RewardError("this reward judges tokens beside texts: pass it to generate, which can decode them")
        table, listed = columns_of(columns, len(texts := list(completions)))
        rows = torch.as_tensor(table.get("rows", range(len(texts))), dtype=torch.long)
        return Batch(rows, None, texts, table, listed).ask((self,), False, 0, torch.arange(len(texts))).tolist()


@dataclass(frozen=True)
class Condition:
    """A comparison of rewards, for `where`; joined by `&` and `|`, turned round by `~`."""

    test: Rule
    parts: tuple[Any, ...]

    def _joined(self, how: Callable[[Any, Any], Any], other: Condition) -> Condition:
        return Condition(partial(join, how, (self.test, other.test), len(self.parts)), self.parts + other.parts)

    __and__ = partialmethod(_joined, operator.and_)
    __or__ = partialmethod(_joined, operator.or_)

    def __invert__(self) -> Condition:
        return Condition(partial(negate, self.test), self.parts)

    def __bool__(self) -> bool:
        raise TypeError("a condition on rewards is true or false of a text only: join two with & or |, and use where")


def combined(rule: Rule, parts: tuple[Any, ...]) -> Combined | TextCombined:
    """A rule over rewards: a reward of tokens where all of them are, otherwise one of texts."""
    return Combined(rule, parts) if all(map(_of_tokens, parts)) else TextCombined(rule, parts)


def checked(reward: Reward, tokens: Tensor, rows: Tensor) -> Tensor:
    """The checked answer (R,) float64 of any reward to (R, L) long tokens of (R,) long rows."""
    return as_reward(reward)(tokens, rows)


def weighted(rewards: Sequence[Any], weights: Sequence[float] | None = None) -> Combined | TextCombined:
    """The weighted sum of several rewards, as TRL's trainers add their reward functions; weights are 1 unless given.

    A function that gives None for a text does not judge it, and the weights of the others grow to the same total.
    Raises `ValueError` for no rewards or another number of weights."""
    rewards = list(rewards)
    weights = [_number(weight, "weighted by") for weight in ([1.0] * len(rewards) if weights is None else weights)]
    if not rewards or len(weights) != len(rewards):
        raise ValueError(f"there are {len(weights)} weights for {len(rewards)} rewards: give one each")
    return combined(Sum(tuple(weights), skips=True), tuple(map(_callable, rewards)))


def _of_tokens(reward: Callable[..., Any]) -> bool:
    if isinstance(reward, Composable | TextComposable):
        return isinstance(reward, Composable)
    return judges_tokens(reward)


def _terms(reward: Any, scale: float = 1.0) -> tuple[tuple[float, Any], ...]:
    """The weighted terms of a reward, a sum's own where it is one."""
    if isinstance(reward, Combined | TextCombined) and isinstance(reward.rule, Sum) and not reward.rule.skips:
        return tuple((scale * weight, part) for weight, part in zip(reward.rule.weights, reward.parts, strict=True))
    return ((scale, _callable(reward)),)


def _callable(reward: Any) -> Any:
    if not callable(reward):
        raise TypeError(f"a reward can be added to a reward and scaled by a number, but {reward!r} is no reward")
    return reward


def _total(terms: tuple[tuple[float, Any], ...]) -> Combined | TextCombined:
    return combined(Sum(tuple(weight for weight, _ in terms)), tuple(part for _, part in terms))


def _number(value: Any, purpose: str, infinite: bool = False, zero: bool = True) -> float:
    if not isinstance(value, Real) or isnan(value):
        raise TypeError(f"a reward can be {purpose} a number, got {value!r}")
    if isinf(value) and not infinite or value == 0 and not zero:
        raise ValueError(f"a reward cannot be {purpose} {value!r}: give a finite number{'' if zero else ', not 0'}")
    return float(value)
