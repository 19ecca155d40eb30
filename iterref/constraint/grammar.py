"""Grammar: a context-free grammar written out to a bounded depth, as one regular expression.

    start: "(" start ")" | /[a-z]+/        depth 2:  \\((?:[a-z]+)\\)|[a-z]+

Where a rule stands inside more rules than the depth, it has no text, and alternatives that need it fall away. The
language is that of the grammar without its deeper texts, and regular.
"""

from __future__ import annotations

import re

from iterref.constraint.expressions import escaped, expect_one_reading, whole

TOKENS = re.compile(
    r"""\s*(?:(?P<comment>//[^\n]*)|(?P<string>"(?:\\.|[^"\\\n])*"i?)|/(?P<regex>(?:\\.|[^/\\\n])+)/(?P<flags>[a-z]*)"""
    r"""|(?P<rule>[?!]?[A-Za-z_]\w*)(?P<colon>\s*:)?|(?P<sign>[()|?*+\[\]]))"""
)
MOST = 2_000_000  # characters of a regular expression

# An expression: ("text", regex), ("rule", name), ("seq", parts), ("or", parts), ("many", part, sign)
Expression = tuple[str, object] | tuple[str, object, str]


def written_out(rules: str, start: str, depth: int) -> str:
    """The regular expression of the texts of `start` with at most `depth` rules inside one another. Raises
    `ValueError` for rules that cannot be read, an unknown name, or a depth that leaves no text."""
    if depth < 1:
        raise ValueError(f"a grammar is written out to a depth of at least 1, got {depth}")
    parsed = _parsed(rules)
    known: dict[tuple[str, int], str | None] = {}

    def rule(name: str, left: int) -> str | None:
        if name not in parsed:
            raise ValueError(f"the grammar has no rule {name!r}: it has {', '.join(parsed)}")
        if left == 0:
            return None
        if (name, left) not in known:
            known[name, left] = regex(parsed[name], left - 1)
            if len(known[name, left] or "") > MOST:
                raise ValueError(f"the grammar is too large at a depth of {depth}: give a smaller depth")
        return known[name, left]

    def regex(what: Expression, left: int) -> str | None:
        """None for what has no text."""
        kind, of = what[0], what[1]
        if kind == "text":
            return str(of)
        if kind == "rule":
            return rule(str(of), left)
        if kind == "many":
            inner = regex(of, left)  # type: ignore[arg-type]
            sign = what[2]  # type: ignore[misc]
            if inner is None:
                return None if sign == "+" else ""
            return f"(?:{inner}){sign}"
        parts = [regex(part, left) for part in of]  # type: ignore[attr-defined]
        if kind == "seq":
            return None if None in parts else "".join(f"(?:{part})" if part else "" for part in parts)
        some = list(dict.fromkeys(part for part in parts if part is not None))
        return "|".join(f"(?:{part})" for part in some) if some else None

    found = rule(start, depth)
    if found is None:
        raise ValueError(f"the grammar has no text of a depth of {depth} or less: give a greater depth")
    return found


def _parsed(rules: str) -> dict[str, Expression]:
    """The rules by their names."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while rules[at:].strip():
        found = TOKENS.match(rules, at)
        if found is None:
            line = rules[:at].count("\n") + 1
            raise ValueError(f"line {line} of the grammar cannot be read at {rules[at : at + 20].strip()!r}")
        kind = "regex" if found["regex"] else str(found.lastgroup)
        if kind == "colon":
            tokens.append(("name", found["rule"].lstrip("?!")))
        elif kind == "regex":
            expect_one_reading(found["regex"])
            inner = whole(found["regex"].replace("\\/", "/"))
            tokens.append((kind, f"(?{found['flags']}:{inner})"))
        elif kind != "comment":
            tokens.append((kind, found[kind]))
        at = found.end()
    made: dict[str, Expression] = {}
    while tokens:
        kind, name = tokens.pop(0)
        if kind != "name":
            raise ValueError(f"the grammar has {name!r} where a rule begins: write `name: ...`")
        if name in made:
            raise ValueError(f"the grammar has two rules {name!r}: write their alternatives behind one, with |")
        made[name] = _alternatives(tokens)
    if not made:
        raise ValueError("the grammar has no rules: write lines such as start: /[a-z]+/")
    return made


def _alternatives(tokens: list[tuple[str, str]]) -> Expression:
    parts = [_sequence(tokens)]
    while tokens and tokens[0] == ("sign", "|"):
        tokens.pop(0)
        parts.append(_sequence(tokens))
    return parts[0] if len(parts) == 1 else ("or", parts)


def _sequence(tokens: list[tuple[str, str]]) -> Expression:
    parts: list[Expression] = []
    while tokens and tokens[0][0] != "name" and tokens[0] not in (("sign", "|"), ("sign", ")"), ("sign", "]")):
        kind, text = tokens.pop(0)
        if kind == "sign" and text in "([":
            one = _alternatives(tokens)
            if not tokens or tokens.pop(0) != ("sign", {"(": ")", "[": "]"}[text]):
                raise ValueError(f"the grammar opens {text!r} and does not close it")
            one = ("many", one, "?") if text == "[" else one
        elif kind == "sign":
            raise ValueError(f"the grammar has {text!r} where nothing stands that it belongs to")
        elif kind == "rule":
            one = ("rule", text)
        else:
            one = ("text", text if kind == "regex" else _literal(text))
        while tokens and tokens[0][0] == "sign" and tokens[0][1] in "?*+":
            one = ("many", one, tokens.pop(0)[1])
        parts.append(one)
    return ("seq", parts)


def _literal(text: str) -> str:
    """A quoted string as a regular expression, without regard to case where an i stands behind it."""
    quoted, folded = (text[:-1], True) if text.endswith("i") else (text, False)
    plain = re.sub(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", _sign, quoted[1:-1])
    return f"(?i:{escaped(plain)})" if folded else escaped(plain)


def _sign(found: re.Match[str]) -> str:
    """What an escape in a quoted string stands for."""
    if len(found[1]) > 1:
        return chr(int(found[1][1:], 16))
    return {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}.get(found[1], found[1])
