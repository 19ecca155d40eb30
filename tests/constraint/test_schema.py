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
NODE = {"type": "object", "properties": {"v": NUMBER, "next": {"$ref": "#/$defs/node"}}, "required": ["v"]}
TAGGED = [
    {"type": "object", "properties": {"kind": {"const": kind}, "size": NUMBER}, "required": ["kind"]} for kind in "ab"
]
ODD = 'a"b\\c\nd.e*'


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
        # what nests, and has an end
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        {"$defs": {"node": {**NODE, "properties": {"v": {"anyOf": [NUMBER, {"$ref": "#/$defs/node"}]}}}},
         "$ref": "#/$defs/node"},
        {"type": "object", "properties": {"all": {"type": "array", "items": {"$ref": "#"}}}, "required": ["all"]},
        {"type": "object", "additionalProperties": {"$ref": "#"}},
        # names and values with signs that JSON escapes, and those of keywords
        {"type": "object", "properties": {ODD: NUMBER}, "required": [ODD]},
        {"enum": [{ODD: [{ODD: 1}]}, {"pattern": "^x", "minimum": 1}]},
        # JavaScript's classes, and anchors of alternatives
        {"type": "string", "pattern": r"^\d{2}$|^\w[^\W\d]$"},
        *({"type": "string", "format": kind} for kind in ("date", "time", "date-time", "email", "uri", "uuid")),
        # one of several
        {"oneOf": TAGGED}, {"oneOf": [NUMBER, TEXT, {"type": "null"}]}, {"oneOf": [{"const": 1}, {"const": True}]},
        {"oneOf": [{"type": "object", "properties": {name: NUMBER}, "required": [name]} for name in "ab"]},
        # bounds
        {**NUMBER, "minimum": -3, "exclusiveMaximum": 12.5}, {**NUMBER, "minimum": 1, "maximum": 99, "multipleOf": 7},
        {"type": "array", "prefixItems": [TEXT, NUMBER], "minItems": 2, "maxItems": 2},
        {"type": "array", "items": NUMBER, "minItems": 0, "uniqueItems": False, "maxItems": 1},
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
        ({"type": "object", "properties": {"a": TEXT}, "required": ["b"]}, "'required' ['b'] would not be kept"),
        ({"type": "object", "properties": {"a": TEXT}, "dependencies": {"a": ["b"]}}, "'dependencies' would not be"),
        ({"type": "object", "properties": {"a": TEXT}, "allOf": [{"type": "object"}]}, "'allOf' would not be kept"),
        ({"$defs": {"node": {**NODE, "required": ["next"]}}, "$ref": "#/$defs/node"}, "no document of a depth of 2"),
        ({"$defs": {"node": NODE}, "$ref": "#/$defs/nod"}, "'#/$defs/nod' leads nowhere"),
        ({"$defs": {"n": NUMBER}, "$ref": "#/$defs/n", "enum": ["a"]}, "'enum' would not be kept beside a '$ref'"),
        ({"type": "array", "items": NUMBER, "const": ["a"]}, "'items' would not be kept"),
        ({"type": "integer", "anyOf": [TEXT, NUMBER]}, "may not be of its type 'integer'"),
        ({"oneOf": [NUMBER, {"type": "number"}]}, "a document may fit two of its schemas"),
        ({"oneOf": [{"type": "object", "properties": {"a": NUMBER}}, TAGGED[0]]}, "a document may fit two"),
        ({"oneOf": [{"enum": ["a", "b"]}, TEXT]}, "a document may fit two of its schemas"),
        ({"enum": []}, "'enum' is empty"),
        ({**NUMBER, "minimum": 3, "maximum": 2}, "no integer is within its bounds"),
        ({**TEXT, "pattern": "[a-z&&[^b]]"}, "read in two ways"),
        ([], "a schema is an object"),
    ],
)
def test_what_would_not_be_kept_is_refused(schema, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        JSONSchema(json.dumps(schema))
