"""Apart: which JSON schemas have no document in common, as far as kinds, values and needed properties show.

Of schemas with their references written out, and of documents that have the named properties alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
KINDS = frozenset("string integer number boolean null array object".split())


def apart(one: Any, other: Any) -> bool:
    """Whether no document of one schema is valid by the other, either way."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return False
    for first, second in ((one, other), (other, one)):
        for name in ("anyOf", "oneOf"):
            if isinstance(first.get(name), list):
                return all(apart(part, second) for part in first[name])
    values, others = _values(one), _values(other)
    if values is not None and others is not None:
        return not values & others
    kinds, theirs = ({"number" if kind == "integer" else kind for kind in kinds_of(side)} for side in (one, other))
    return not kinds & theirs or (kinds == theirs == {"object"} and _shut_out(one, other) and _shut_out(other, one))


def _shut_out(one: Schema, other: Schema) -> bool:
    """Whether no object of one schema is valid by the other."""
    mine, theirs = one.get("properties", {}), other.get("properties", {})
    if _given(one) is not None:
        return False  # of objects that are written out, nothing is known here
    closed = other.get("additionalProperties") is False
    lacks = any(name not in mine or apart(mine[name], theirs[name]) for name in other.get("required", ()))
    return lacks or any(
        apart(mine[name], theirs[name]) if name in theirs else closed for name in one.get("required", ())
    )


def fits_type(one: Schema, whole: Schema) -> bool:
    """Whether the documents of a schema are of the `type` of the one that it stands in."""
    named = whole.get("type")
    allowed = {named} if isinstance(named, str) else {*named} if isinstance(named, list) else KINDS
    return kinds_of(one) <= (allowed | {"integer"} if "number" in allowed else allowed)


def kinds_of(schema: Schema) -> set[str]:
    """The kinds of a schema's documents; all of them where it does not say."""
    if (values := _given(schema)) is not None:
        return set(map(_kind, values))
    named = schema.get("type")
    if named is not None:
        return {named} if isinstance(named, str) else set(named)
    for name in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(name), list):
            return {kind for one in schema[name] for kind in (kinds_of(one) if isinstance(one, Mapping) else KINDS)}
    return {"object"} if "properties" in schema else set(KINDS)


def _given(schema: Schema) -> list[Any] | None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else None


def _values(schema: Schema) -> set[str] | None:
    """The values of a schema that lists them, in one form."""
    values = _given(schema)
    if values is None:
        return None
    return {json.dumps(int(v) if isinstance(v, float) and v.is_integer() else v, sort_keys=True) for v in values}


def _kind(value: Any) -> str:
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", list: "array"}
    return kinds.get(type(value), "object")
