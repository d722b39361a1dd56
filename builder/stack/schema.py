"""The JSON Schema of a stack, for editors: `python -m builder.stack.schema` rewrites it.

It is made from the types and the catalogue, so that an editor offers and checks what `load` takes.
Where it cannot say a rule (names of files, contradictions), `load` does.
"""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Any

from builder import files
from builder.catalogue import engines, gpus
from builder.stack import model

FILE = Path(__file__).parents[2] / "docs" / "stack.schema.json"
"""In a checkout; the wheel has no docs."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the schema of a stack file."""
    schema = model.Stack.model_json_schema()
    parts = {"Stack": schema, **schema["$defs"]}
    for name, texts in _field_docstrings().items():
        _describe(parts.get(name, {}), texts)
    for name, part in parts.items():
        if names := getattr(model, name).one_of:
            part["oneOf"] = [{"required": [choice]} for choice in names]
    _offer_names(schema["$defs"])
    return {"$schema": _DIALECT, **schema, "title": "Stack of builder"}


def dumps() -> str:
    """Return the schema as the text of its file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _describe(part: dict[str, Any], texts: dict[str, str]) -> None:
    for field, text in texts.items():
        if field in part.get("properties", {}):
            part["properties"][field]["description"] = text


def _offer_names(parts: dict[str, Any]) -> None:
    """Let editors complete what the catalogue knows."""
    parts["Engine"]["properties"]["name"]["enum"] = list(engines())
    items = {"enum": list(gpus())}
    several = {"type": "array", "items": items, "minItems": 1, "uniqueItems": True}
    parts["Target"]["properties"]["gpu"]["anyOf"] = [{"enum": ["none", *gpus()]}, several]


def _field_docstrings() -> dict[str, dict[str, str]]:
    """Return the string under each field, by class.

    Pydantic can do this too, but reads the source whenever the classes are made: that is too slow
    for a command line.
    """
    tree = ast.parse(inspect.getsource(model))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {node.name: _texts(node) for node in classes}


def _texts(node: ast.ClassDef) -> dict[str, str]:
    texts = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            texts[field.target.id] = inspect.cleandoc(str(below.value.value))
    return texts


if __name__ == "__main__":
    files.write_atomic(FILE, dumps().encode())
