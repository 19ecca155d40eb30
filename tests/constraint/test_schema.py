"""Schemas as regular expressions: what is kept is valid, and what would not be is refused by its keyword."""

from __future__ import annotations

import json
import random
import re

import pytest

from iterref.constraint import JSONSchema
from tests.support.walks import walk

pytest.importorskip("outlines_core")
jsonschema = pytest.importorskip("jsonschema")
TEXT, NUMBER = {"type": "string"}, {"type": "integer"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": TEXT, "b": NUMBER}, "required": ["b"], "additionalProperties": False},
        {"type": "string", "pattern": "^[a-c]+|x{2}$"},
        {"type": "string", "minLength": 2, "maxLength": 4},
        {"type": "array", "items": {"enum": ["a", 1, None]}, "minItems": 1, "maxItems": 3},
        {"type": "array", "prefixItems": [TEXT, NUMBER]},
        {"anyOf": [{"type": "number"}, {"type": "string", "enum": ['a"b', "c\\d"]}]},
        {"$defs": {"p": {"type": "object", "properties": {"x": NUMBER}, "required": ["x"]}}, "$ref": "#/$defs/p"},
        {"title": "T", "description": "d", "type": "object", "properties": {"minimum": NUMBER, "not": TEXT}},
        {"allOf": [{"type": "boolean"}]},
    ],
)
def test_every_text_is_a_valid_document(schema):
    """Random walks through the automaton, checked by another package."""
    strings, choice = JSONSchema(schema).strings, random.Random(0)
    for _ in range(200):
        document = json.loads(walk(strings, choice).decode("utf-8", "strict"))
        jsonschema.validate(document, schema)


@pytest.mark.parametrize(
    "schema, told",
    [
        ({**NUMBER, "minimum": 0}, "'minimum' would not be kept"),
        ({**NUMBER, "multipleOf": 2}, "'multipleOf' would not be kept"),
        ({"type": "array", "items": TEXT, "uniqueItems": True}, "'uniqueItems' would not be kept"),
        ({"type": "object", "properties": {"a": {**TEXT, "not": {"const": "a"}}}}, "'not' would not be kept"),
        ({**TEXT, "pattern": "a+", "minLength": 3}, "'pattern' would not be kept"),
        ({"allOf": [TEXT, {"enum": ["a"]}]}, "'allOf' would not be kept"),
        ({"type": "string", "enum": ["a", 3]}, "3 is not of its type 'string'"),
        ({"type": "integer", "const": True}, "True is not of its type"),
        ({**TEXT, "pattern": ".*"}, "JSON would have to escape"),
        ({**TEXT, "format": "ipv4"}, "ipv4"),
        ([], "a schema is an object"),
    ],
)
def test_what_would_not_be_kept_is_refused(schema, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        JSONSchema(json.dumps(schema))
