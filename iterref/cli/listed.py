"""Listed: methods with their options, models and rewards by name, read without importing any of them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).parents[1]
MODELS = {
    "tiny-news": "the bundled summariser of short news sentences",
    "tiny-books": "bundled, of story books and film reviews, no prompts but openings",
    "FOLDER": "or a hub name: MDLM, UDLM, Duo, SEDD, LLaDA, Dream, DiffusionGemma, masked language models",
}
REWARDS = {
    "consensus": "agreement with the model's own drafts (mean ROUGE-L); consensus:n=8 sets their number",
    "length": "nearness to 8 words; length:12 to 12 words",
    "rouge": "ROUGE-L against the field `reference` or `summary` of JSON input: an upper bound, it sees the answer",
    "classifier": "log-probability of a label; classifier:sentiment:positive, or any FOLDER:LABEL",
    "perplexity": "mean log-likelihood a token; perplexity:prose, or any FOLDER of a causal language model",
    "http://HOST/PATH": "a server that judges texts, or https://...; what it is asked and answers: docs/rewards.md",
    "FILE.py:NAME": "a function of your own: NAME(completions, prompts=..., **fields) -> one number a text",
}


class Declared(NamedTuple):
    """A dataclass as its source declares it: the file's first line, and (name, default) of every option."""

    summary: str
    options: list[tuple[str, Any]]


def declared(file: Path, name: str | None = None) -> Declared:
    """Reads a dataclass from a source file without importing it: the one called `name`, or that of `SAMPLER = ...`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if name is None:
        assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
        name = ast.unparse(assigned["SAMPLER"])
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    fields = [node for node in found.body if isinstance(node, ast.AnnAssign)]
    homes = {
        alias.name: HOME.parent.joinpath(*(node.module or "").split(".")).with_suffix(".py")
        for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    homes |= {node.name: file for node in tree.body if isinstance(node, ast.ClassDef)}
    options: dict[str, Any] = {}
    for base in map(ast.unparse, found.bases):  # base classes have options of their own
        if homes.get(base, file.parent).parent == HOME / "samplers":
            options |= dict(declared(homes[base], base).options)
    options |= {
        ast.unparse(field.target): ast.literal_eval(field.value) if field.value else ...
        for field in fields
        if "ClassVar" not in ast.unparse(field.annotation)
    }
    return Declared((ast.get_docstring(tree) or "").partition("\n")[0], list(options.items()))


def methods() -> dict[str, Declared]:
    """Every method with its options."""
    found = sorted(path for path in (HOME / "samplers").glob("*.py") if path.stem not in ("__init__", "base"))
    return {path.stem: declared(path) for path in found}
