"""Mixtures: the functions of texts that a combined reward is made of, and the same mixture of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iterref.rewards.algebra import TextCombined


def leaves(reward: Any) -> list[Any]:
    """The functions of texts that a mixture of texts is made of, in order; a reward that is no mixture is its own."""
    return [leaf for part in reward.parts for leaf in leaves(part)] if isinstance(reward, TextCombined) else [reward]


def replaced(reward: Any, change: Callable[[Any], Any]) -> Any:
    """The same mixture with every leaf changed."""
    if isinstance(reward, TextCombined):
        return TextCombined(reward.rule, tuple(replaced(part, change) for part in reward.parts))
    return change(reward)
