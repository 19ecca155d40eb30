"""Schema: a JSON schema as a regular expression, every document of which is valid, or a refusal that names the keyword.

    {"type": "object", "properties": {"a": {"type": "integer"}}}   ->   \\{([ ]?"a"[ ]?:[ ]?(-)?(0|[1-9][0-9]*))?[ ]?\\}

The expression is made by `outlines-core`, which passes over keywords that it does not know. Each keyword is taken out
in turn: one without which the expression stays the same says something that documents would not keep. What it gets
wrong is written for it in another way: references, names with signs that JSON escapes, formats, integers in bounds. A
`pattern` is that of the whole string, and may match no sign that JSON would have to escape.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from math import ceil, floor
from typing import Any

from iterref.constraint.apart import apart, fits_type
from iterref.constraint.expressions import compiled, escaped, expect_one_reading, whole
from iterref.constraint.references import LISTS, written_out

# What restricts documents. `type` is looked at beside `enum` and `const` alone, where it is passed over.
KEYWORDS = frozenset(
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern format minItems maxItems "
    "uniqueItems contains minContains maxContains prefixItems unevaluatedItems unevaluatedProperties minProperties "
    "maxProperties patternProperties propertyNames dependentRequired dependentSchemas not if then else anyOf oneOf "
    "enum const allOf dependencies additionalItems divisibleBy disallow extends $dynamicRef $recursiveRef".split()
)
WHOLE = ("enum", "const", "anyOf", "oneOf", "allOf")  # beside these, what a schema else says is passed over
ESCAPED = [*range(32), 34, 92, 127]  # bytes that stand in no JSON string as they are
# JavaScript's classes, whose patterns a schema has, are those of ASCII.
CLASSES = {"d": "[0-9]", "D": "[^0-9]", "w": "[0-9A-Za-z_]", "W": "[^0-9A-Za-z_]"}
DATE = (
    "[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+\-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
HOST = r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)*\.[A-Za-z]{2,}"
# Each matches texts of its format alone, and not all of them: no 29th of February, no quoted names.
FORMATS = {
    "date": DATE, "time": TIME, "date-time": f"{DATE}T{TIME}",
    "email": rf"[A-Za-z0-9]+(?:[._+\-][A-Za-z0-9]+)*@{HOST}",
    "uri": rf"(?:https?|ftp)://{HOST}(?::[1-9][0-9]{{0,3}})?(?:/[A-Za-z0-9._~!$&'()*+,;=:@\-]*)*",
}  # fmt: skip
MOST = 10_000  # integers between two bounds that are written out


def regex_of(schema: Mapping[str, Any], build: Callable[[str], str], depth: int) -> str:
    """The regular expression of a schema, what refers to itself written out to a depth; `build` makes one of a schema's
    text. Raises `ValueError` for what the expression would not keep."""
    schema = written_out(schema, depth)
    for part in parts(schema):
        _expect_kept(part)
        _rewrite(part)
    regex = build(json.dumps(schema))
    for part in parts(schema):
        names = [name for name in part if name in KEYWORDS and not _holds(part, name)]
        if "additionalProperties" in part and "properties" not in part:
            names.append("additionalProperties")
        if any(name in part for name in WHOLE):
            names += [name for name in ("properties", "items", "required") if name in part]
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


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """All schemas in a schema, outermost first."""
    if isinstance(schema, dict):
        yield schema
        named = schema.get("properties")
        below = [*(named.values() if isinstance(named, dict) else ())]
        below += [one for name in LISTS if isinstance(schema.get(name), list) for one in schema[name]]
        for one in (*below, schema.get("items"), schema.get("additionalProperties")):
            yield from parts(one)


def _rewrite(part: dict[str, Any]) -> None:
    """Writes what `outlines-core` gets wrong in a way that it gets right."""
    if part.get("format") in FORMATS and part.get("type") == "string" and not {*part} & {"pattern", "enum", "const"}:
        part["pattern"] = FORMATS[part.pop("format")]
    if isinstance(part.get("pattern"), str):
        part["pattern"] = _pattern(part["pattern"])
    if part.get("type") == "integer" and not any(name in part for name in WHOLE):
        values = _between(part)
        if values is not None:
            for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
                part.pop(name, None)
            part["enum"] = values
    if part.get("additionalProperties") is False:
        part.setdefault("properties", {})
    if isinstance(part.get("properties"), dict):
        part["properties"] = {_in_quotes(name): one for name, one in part["properties"].items()}
        part["required"] = list(map(_in_quotes, part.get("required", [])))
    for name in {"enum", "const"} & {*part}:
        part[name] = _named_in_quotes(part[name])


def _between(part: Mapping[str, Any]) -> list[int] | None:
    """The integers between two bounds; None where one is missing, or there are too many."""
    step = part.get("multipleOf", 1)
    lows = [ceil(part[name]) for name in ("minimum",) if name in part]
    highs = [floor(part[name]) for name in ("maximum",) if name in part]
    above, below = part.get("exclusiveMinimum"), part.get("exclusiveMaximum")
    if isinstance(above, bool) or isinstance(below, bool) or not isinstance(step, int) or step < 1:
        return None
    low = max([*lows, *([] if above is None else [floor(above) + 1])], default=None)
    high = min([*highs, *([] if below is None else [ceil(below) - 1])], default=None)
    if low is None or high is None or high - low >= MOST * step:
        return None
    if not (values := [*range(-(-low // step) * step, high + 1, step)]):
        raise ValueError(f"no integer is within its bounds, {low} to {high}: give wider ones")
    return values


def _in_quotes(name: str) -> str:
    """A name as it stands between quotes."""
    return json.dumps(name, ensure_ascii=False)[1:-1]


def _named_in_quotes(value: Any) -> Any:
    """A value with all its names so, and as a regular expression, which `outlines-core` takes them for here."""
    if isinstance(value, dict):
        return {escaped(_in_quotes(name)): _named_in_quotes(one) for name, one in value.items()}
    return [_named_in_quotes(one) for one in value] if isinstance(value, list) else value


def _holds(part: Mapping[str, Any], name: str) -> bool:
    """Whether a keyword holds of everything that is written: of the first items, there are all and no more."""
    first, value = part.get("prefixItems"), part[name]
    if isinstance(first, list) and isinstance(value, int) and name in ("minItems", "maxItems"):
        return value <= len(first) if name == "minItems" else value >= len(first)
    return value in (0, False) and name in ("minItems", "minLength", "minProperties", "uniqueItems")


def _pattern(pattern: str) -> str:
    """A `pattern` as one of the whole string."""
    expect_one_reading(pattern)
    pattern = whole(pattern, CLASSES)
    if bool((compiled(pattern).step[:, ESCAPED] >= 0).any()):
        told = f"its pattern {pattern!r} matches quotes, backslashes or control signs, which JSON would have to escape"
        raise ValueError(f"{told}: leave them out, as in [^\"\\\\\\x00-\\x1f]")
    return f"(?:{pattern})"


def _expect_kept(part: Mapping[str, Any]) -> None:
    """Refuses what would be written against the rest of its schema."""
    needed, known = part.get("required", []), part.get("properties", {})
    if not isinstance(needed, list) or any(name not in known for name in needed):
        raise ValueError(f"its 'required' {needed!r} would not be kept: name properties of the same schema")
    if isinstance(part.get("allOf"), list) and len(part["allOf"]) > 1:
        raise ValueError("its 'allOf' would not be kept: write its schemas as one")
    if isinstance(part.get("oneOf"), list) and not all(apart(*pair) for pair in combinations(part["oneOf"], 2)):
        raise ValueError("its 'oneOf' would not be kept, as a document may fit two of its schemas: say 'anyOf'")
    if part.get("enum") == []:
        raise ValueError("its 'enum' is empty: give a value")
    for value in [*(part["enum"] if isinstance(part.get("enum"), list) else ()), *_only(part, "const")]:
        if not fits_type({"const": value}, part):
            raise ValueError(f"its value {value!r} is not of its type {part['type']!r}: take it out")
    for name in ("anyOf", "oneOf", "allOf"):
        if not all(fits_type(one, part) for one in part.get(name, ()) if isinstance(one, dict)):
            told = f"its {name!r} has a schema that may not be of its type {part['type']!r}"
            raise ValueError(f"{told}: give it that type, or take it out")


def _only(part: Mapping[str, Any], name: str) -> list[Any]:
    return [part[name]] if name in part else []
