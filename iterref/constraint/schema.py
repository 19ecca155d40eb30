"""Schema: a JSON schema as a regular expression, every document of which is valid, or a refusal that names the keyword.

    {"type": "object", "properties": {"a": {"type": "integer"}}}   ->   \\{([ ]?"a"[ ]?:[ ]?(-)?(0|[1-9][0-9]*))?[ ]?\\}

The expression is made by `outlines-core`, which passes over keywords that it does not know. Each keyword is taken out
in turn: one without which the expression stays the same says something that documents would not keep. A `pattern` is
that of the whole string, and may match no sign that JSON would have to escape.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from iterref.constraint.expressions import compiled, whole

# What restricts documents. `type` is looked at beside `enum` and `const` alone, where it is passed over.
KEYWORDS = frozenset(
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern format minItems maxItems "
    "uniqueItems contains minContains maxContains prefixItems unevaluatedItems unevaluatedProperties minProperties "
    "maxProperties patternProperties propertyNames dependentRequired dependentSchemas not if then else anyOf oneOf "
    "enum const".split()
)
KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None), "array": list,
    "object": dict,
}  # fmt: skip
ESCAPED = [*range(32), 34, 92, 127]  # bytes that stand in no JSON string as they are


def regex_of(schema: Mapping[str, Any], build: Callable[[str], str]) -> str:
    """The regular expression of a schema; `build` makes one of a schema's text. Raises `ValueError` for what the
    expression would not keep."""
    schema = deepcopy(dict(schema))
    for part in _parts(schema):
        if isinstance(part.get("pattern"), str):
            part["pattern"] = _pattern(part["pattern"])
    regex = build(json.dumps(schema))
    for part in _parts(schema):
        _expect_values(part)
        names = [name for name in part if name in KEYWORDS]
        if "additionalProperties" in part and "properties" not in part:
            names.append("additionalProperties")
        for name in names:
            value = part.pop(name)
            try:
                same = build(json.dumps(schema)) == regex
            except (ValueError, TypeError):  # there is nothing without it
                same = False
            part[name] = value
            if same:
                raise ValueError(f"its {name!r} would not be kept: take it out, and let the reward see to it")
    return regex


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """All mappings in a schema, outermost first."""
    if isinstance(schema, dict):
        yield schema
    for one in list(schema.values()) if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _parts(one)


def _pattern(pattern: str) -> str:
    """A `pattern` as one of the whole string."""
    if bool((compiled(pattern).step[:, ESCAPED] >= 0).any()):
        told = f"its pattern {pattern!r} matches quotes, backslashes or control signs, which JSON would have to escape"
        raise ValueError(f"{told}: leave them out, as in [^\"\\\\\\x00-\\x1f]")
    return f"(?:{whole(pattern)})"


def _expect_values(part: Mapping[str, Any]) -> None:
    """Refuses what stands in `enum`, `const` or `allOf` and would be written against the rest of its schema."""
    if isinstance(part.get("allOf"), list) and len(part["allOf"]) > 1:
        raise ValueError("its 'allOf' would not be kept: write its schemas as one")
    named = part.get("type")
    if not isinstance(named, str | list) or not isinstance(part.get("enum", []), list):
        return
    kinds = [KINDS[one] for one in ([named] if isinstance(named, str) else named) if one in KINDS]
    for value in [*part.get("enum", []), *([part["const"]] if "const" in part else [])]:
        truth = isinstance(value, bool)
        if not any(isinstance(value, kind) and (kind is bool or not truth) for kind in kinds):
            raise ValueError(f"its value {value!r} is not of its type {named!r}: take it out")
