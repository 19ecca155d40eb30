"""References: a JSON schema with everything that it refers to written out, as deep as it may nest.

    {"$ref": "#/$defs/node"}   ->   node, in which node stands at most `depth` times more

Deeper there is no document, and what needs one falls away, as in a grammar: optional properties, items, alternatives.
Names and values are left as they are: a property called "$ref" is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

# What may stand beside a reference: it says nothing of documents.
SILENT = frozenset("$ref $defs definitions title description default examples $comment deprecated".split())
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")


def written_out(schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """The schema without references. Raises `ValueError` for one that leads nowhere, for what would not be kept beside
    one, and where no document is that shallow."""

    def part(of: Any, within: tuple[str, ...]) -> Any:
        """A schema in the references that it stands `within`; None for one without a document."""
        if of is False:
            return None
        if not isinstance(of, Mapping):
            return of
        if isinstance(of.get("$ref"), str):
            reference = of["$ref"]
            beside = sorted({*of} - SILENT)
            if beside:
                raise ValueError(f"its {beside[0]!r} would not be kept beside a '$ref': write the two as one schema")
            deep = within.count(reference) > depth
            return None if deep else part(_found(schema, reference), (*within, reference))
        made = {name: one for name, one in of.items() if name not in ("$defs", "definitions")}
        for name in LISTS:
            if isinstance(made.get(name), list):
                some = [part(one, within) for one in made[name]]
                made[name] = [one for one in some if one is not None]
                if len(made[name]) < (1 if name in ("anyOf", "oneOf") else len(some)):
                    return None
        if isinstance(made.get("properties"), Mapping):
            parts = {name: part(one, within) for name, one in made["properties"].items()}
            made["properties"] = {name: one for name, one in parts.items() if one is not None}
            if any(parts[name] is None for name in _named(made) if name in parts):
                return None
        if isinstance(made.get("items"), Mapping) and (found := part(made["items"], within)) != made["items"]:
            if found is None and made.get("minItems", 0) and "prefixItems" not in made:
                return None
            made |= {"items": {"type": "null"}, "maxItems": 0} if found is None else {"items": found}
        if isinstance(made.get("additionalProperties"), Mapping):
            found = part(made["additionalProperties"], within)
            made["additionalProperties"] = False if found is None else found
        return made

    found: dict[str, Any] | None = part(schema, ())
    if found is None:
        raise ValueError(f"it has no document of a depth of {depth} or less: give a greater depth")
    return found


def _named(schema: Mapping[str, Any]) -> list[Any]:
    needed = schema.get("required")
    return needed if isinstance(needed, list) else []


def _found(schema: Any, reference: str) -> Any:
    """What a reference within a schema leads to."""
    start, *names = reference.split("/")
    for name in names if start == "#" else [""]:
        name = unquote(name).replace("~1", "/").replace("~0", "~")
        try:
            schema = schema[int(name) if isinstance(schema, list) else name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ValueError(f"its reference {reference!r} leads nowhere: write one such as '#/$defs/NAME'") from None
    return schema
