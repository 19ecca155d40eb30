"""Patterns: how a language is written down, as a regular expression, a JSON schema, choices or a grammar.

    Regex(r"[a-z]+")    JSONSchema({"type": "object", ...})    Choices("good", "bad")    Grammar('start: "a" start?')

Each becomes one regular expression over the whole text, which `outlines-core` compiles (the extra `structure`). A JSON
schema is turned into one by the same package; what nests without a bound is written out to `depth`. A grammar's rules
are written out to `depth` applications inside one another: a text that needs more is none of the language.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iterref.constraint.expressions import compiled, escaped, expect_one_reading, told
from iterref.constraint.grammar import written_out
from iterref.constraint.schema import regex_of
from iterref.constraint.strings import Strings
from iterref.optional import require


@dataclass(frozen=True)
class Pattern:
    """A language, as the regular expression `regex` of whole texts."""

    regex: str

    @property
    def strings(self) -> Strings:
        """Its automaton. Raises `ValueError` for what is no regular expression, or has no text."""
        return compiled(self.regex)


class Regex(Pattern):
    """The texts that match a regular expression from beginning to end, as `re.fullmatch` has it, without looking
    around, back references, \\b and anchors within; \\p{Greek} and its kin of Rust's `regex` are known, too. Raises
    `ValueError` for signs that the two read in different ways."""

    def __init__(self, regex: str) -> None:
        expect_one_reading(regex)
        super().__init__(regex)


class Choices(Pattern):
    """One of some given `texts`."""

    texts: tuple[str, ...]

    def __init__(self, *texts: str) -> None:
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError(f"choices are one or more texts, got {texts!r}")
        super().__init__("|".join(f"(?:{escaped(text)})" for text in texts))
        object.__setattr__(self, "texts", texts)


class JSONSchema(Pattern):
    """The JSON documents of a schema: a mapping, its text, or a pydantic model. `blanks` is the regular expression of
    what may stand between the signs, one blank or none unless given; what refers to itself is written out to `depth`.

    Raises `ValueError` for a schema that is no JSON, or has parts that cannot be turned into a regular expression
    (`iterref.constraint.schema`)."""

    def __init__(self, schema: Mapping[str, Any] | str | type, blanks: str | None = None, depth: int = 2) -> None:
        require("outlines_core", "structure", "a constraint")
        from outlines_core.json_schema import build_regex_from_schema

        if isinstance(schema, type):
            schema = schema.model_json_schema()  # type: ignore[attr-defined]
        try:
            found = json.loads(schema) if isinstance(schema, str) else schema
            if not isinstance(found, Mapping):
                raise ValueError("a schema is an object")
            super().__init__(regex_of(found, lambda text: build_regex_from_schema(text, blanks, 0), depth))
        except (ValueError, TypeError) as error:
            raise ValueError(f"the JSON schema cannot be turned into a regular expression ({told(error)})") from None


class Grammar(Pattern):
    """The texts of a context-free grammar in which at most `depth` rules stand inside one another.

    `rules` are lines `name: alternatives` with "strings", /regular expressions/, names, groups, | ? * + and comments
    behind //, in the style of Lark; the text is a `start`. Raises `ValueError` for rules that cannot be read, and where
    no text is that shallow."""

    def __init__(self, rules: str, start: str = "start", depth: int = 6) -> None:
        super().__init__(written_out(rules, start, depth))


def pattern_of(given: Any) -> Pattern:
    """A pattern from what a user passes: one of these, a regular expression, or a JSON schema as a mapping or a
    pydantic model. Raises `TypeError` for anything else."""
    if isinstance(given, Pattern):
        return given
    if isinstance(given, str):
        return Regex(given)
    if isinstance(given, re.Pattern) and isinstance(given.pattern, str) and not given.flags & re.ASCII:
        flags = "".join(name for name, flag in zip("imsx", (re.I, re.M, re.S, re.X), strict=True) if given.flags & flag)
        return Regex(f"(?{flags}){given.pattern}" if flags else given.pattern)
    if isinstance(given, Mapping) or isinstance(given, type) and hasattr(given, "model_json_schema"):
        return JSONSchema(given)
    told = f"the constraint is {type(given).__name__}: pass a regular expression, a JSON schema as a dictionary"
    raise TypeError(f"{told}, or a Regex, JSONSchema, Choices or Grammar of iterref.constraint")
