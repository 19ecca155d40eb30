"""Constraints: regular languages that clean samples are drawn from, exactly, and how they are written down."""

from typing import TYPE_CHECKING

from iterref import lazy

if TYPE_CHECKING:
    from iterref.constraint.automaton import Automaton
    from iterref.constraint.canvas import Constraint, Reading
    from iterref.constraint.patterns import Choices, Grammar, JSONSchema, Pattern, Regex
    from iterref.constraint.posterior import Posterior

__all__ = [
    "Automaton", "Choices", "Constraint", "Grammar", "JSONSchema", "Pattern", "Posterior", "Reading", "Regex",
]  # fmt: skip

lazy.attach(__name__)
