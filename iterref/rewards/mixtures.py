"""Mixtures: the functions of texts that a combined reward is made of, the same mixture of others, and its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from iterref.rewards.algebra import Combined, TextCombined
from iterref.rewards.calling import own_name
from iterref.rewards.rules import Sum


def leaves(reward: Any) -> list[Any]:
    """The functions of texts that a mixture of texts is made of, in order; a reward that is no mixture is its own."""
    return [leaf for part in reward.parts for leaf in leaves(part)] if isinstance(reward, TextCombined) else [reward]


def replaced(reward: Any, change: Callable[[Any], Any]) -> Any:
    """The same mixture with every leaf changed."""
    if isinstance(reward, TextCombined):
        return TextCombined(reward.rule, tuple(replaced(part, change) for part in reward.parts))
    return change(reward)


def reward_name(reward: Any, weights: Sequence[float] | None = None) -> str:
    """What a reward is called, for a reader: its string, a function's name, an object's own words, and of a list or a
    mixture its parts with their weights."""
    if isinstance(reward, str):
        return reward
    if isinstance(reward, list | tuple):
        return _summed(reward, weights or [1.0] * len(reward))
    if isinstance(reward, Combined | TextCombined):
        if isinstance(reward.rule, Sum):
            return _summed(reward.parts, reward.rule.weights)
        rule = reward.rule.func if isinstance(reward.rule, partial) else reward.rule
        return f"{own_name(rule)}({', '.join(map(reward_name, reward.parts))})"
    return own_name(reward)


def _summed(parts: Sequence[Any], weights: Sequence[float]) -> str:
    pairs = zip(parts, weights, strict=True)
    return " + ".join(
        reward_name(part) if weight == 1 else f"{weight:g} × {reward_name(part)}" for part, weight in pairs
    )
