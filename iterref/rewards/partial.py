"""Values of unfinished states: a reward with a function beside it that says what reward is to come of a state.

    r(x_0)        of finished texts, as ever
    V(x_t)        of states that still have masked positions, in the unit of r

The optimal one is V(x_t) = alpha log E[exp(r(x_0) / alpha) | x_t]; one that is learnt of runs, pairs of a state and the
reward that its text had in the end, estimates it or E[r(x_0) | x_t]. Methods that weigh states take it by
`value=partial`; what they guarantee does not depend on how good it is.

Mudgal et al. (2024), arXiv:2310.17022; Li et al. (2024), arXiv:2408.08252; Rohatgi et al. (2025), arXiv:2510.03149.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from iterref.rewards.algebra import Composable, TextComposable, as_reward, values_states
from iterref.rewards.base import Reward
from iterref.rewards.calling import call, judges_tokens


class WrappedReward(Composable):
    """A reward of tokens around another one, whose values of unfinished states are the other's."""

    checks: ClassVar[bool] = True

    def __init__(self, reward: Reward) -> None:
        self.reward = as_reward(reward)
        self.has_partial = values_states(self.reward)

    def partial(self, tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
        assert isinstance(self.reward, Composable)
        values: Tensor = self.reward.partial(tokens, masked, rows)
        return values


class PartialOfTokens(Composable):
    """A reward of tokens beside a `value(tokens, masked, rows)` of states."""

    has_partial = True

    def __init__(self, reward: Callable[..., Any], value: Callable[..., Any]) -> None:
        self.reward, self.partial = reward, value  # type: ignore[method-assign]

    def __call__(self, tokens: Tensor, rows: Tensor) -> Any:
        return self.reward(tokens, rows)


class PartialOfTexts(TextComposable):
    """A reward of texts beside a `value` of unfinished texts, or of the states' tokens."""

    has_partial = True

    def __init__(self, reward: Callable[..., Any], value: Callable[..., Any]) -> None:
        self.functions, self.partial = (reward,), value  # type: ignore[method-assign]

    def __call__(self, completions: Sequence[str], **columns: Any) -> Any:
        return call(self.functions[0], list(completions), columns)


def with_partial(reward: Callable[..., Any], value: Callable[..., Any]) -> PartialOfTokens | PartialOfTexts:
    """A reward with a value of unfinished states: `value(tokens, masked, rows)` gets (R, L) long, (R, L) bool, true
    where a position is still open, and (R,) prompts; beside a reward of texts it may be one of unfinished texts,
    `value(completions, masked=..., **columns)`, which leave out what is open and get how many positions that are.

    Either returns R numbers in the reward's unit, -inf where no allowed text can come of a state; they are checked and
    counted as reward calls. A mixture of rewards has a value where each of its parts has one of the same kind."""
    of_tokens = isinstance(reward, Composable) or (not isinstance(reward, TextComposable) and judges_tokens(reward))
    return PartialOfTokens(reward, value) if of_tokens else PartialOfTexts(reward, value)
