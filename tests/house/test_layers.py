"""The house rules, read from the source: imports point one way, every file says what it is and stays short."""

from __future__ import annotations

import ast
import re
from collections.abc import Set
from functools import cache
from pathlib import Path

import pytest

import iterref

ROOT = Path(iterref.__file__).parent
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(ROOT.rglob("*.py"))
}
SOURCES = {module: file.read_text(encoding="utf-8") for module, file in FILES.items()}
MOST_LINES = 350

# From the ground up: a room may import the rooms above it in this list, and itself. `samplers.base` says what a method
# is; moves import it, and methods import moves.
ORDER = [
    {"columns", "fence", "files", "interrupts", "legacy", "lines", "optional", "paired", "progress", "sources"},
    {"packaged"},
    {"data_sets", "forms", "hub", "registry", "numbers"},
    {"arrays", "lazy", "linear", "strings", "philox"},
    {"prepared", "digests"},
    {"random"},
    {"noise"},
    {"denoiser"},
    {"constraint"},
    {"guidance", "padding", "budget", "mtm", "particles", "potentials", "resample", "decision"},
    {"models", "rewards"},
    {"problem", "evaluation", "decoding", "trace"},
    {"draws", "lengths"},
    {"result"},
    {"run"},
    {"likelihood", "turns"},
    {"samplers.base"},
    {"moves", "chains"},
    {"samplers"},
    {"sampling"},
    {"adaptive", "drafts", "report", "loading", "check"},
    {"arguments"},
    {"generation", "training"},
    {"estimation"},
    {"comparison", "editing", "engine", "text_likelihood"},
    {"serving", "integrations"},
    {"demo"},
    {"cli"},
    {"exact"},  # for tests and benchmarks: nothing of the package imports it
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
# Who may import a model, and which rewards the core may import.
TOP = {"drafts", "lengths", "loading", "check", *set().union(*ORDER[LEVEL["arguments"] : LEVEL["cli"] + 1])}
ENDS = {"problem", "run", "result", "sampling"}
CORE = ENDS | {"samplers.base", "samplers", "moves", "chains", "decoding", "evaluation", "draws"}
OF_REWARDS = ENDS, {"rewards.base", "rewards.algebra", "rewards.memory"}
PURE = CORE | {"arrays", "philox", "prepared", "random", "noise", "denoiser", "mtm", "particles", "potentials"}
PURE |= {"resample", "decision", "trace"}
HEAVY = {"transformers", "datasets", "diffusers", "matplotlib", "rouge_score", "nltk", "ray", "vllm"}
HEAVY |= {"lm_eval", "starlette", "uvicorn"}
# Names of types alone, under TYPE_CHECKING, and of a facade.
TYPED = {("decoding", "run"), ("result", "samplers.base"), ("trace", "samplers.base"), ("models", "loading")}
FACADE = {"__init__", "__main__", "iterref", "models", "rewards", "samplers"}  # public names of what lies below


def room_of(module: str) -> str:
    return module if module in LEVEL else module.split(".")[0]


parsed = cache(ast.parse)


@cache
def imports(source: str, top_only: bool = False, types: bool = True) -> frozenset[str]:
    """Everything that a source imports, with dots, `from a import b` as a.b. Left out on request: what is imported in
    functions, or for types alone, by `top_only` both."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        if top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if (top_only or not types) and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(parsed(source))
    return frozenset(found)


def own(names: Set[str]) -> set[str]:
    """The modules of this package among imported names: iterref.mtm.select is mtm."""
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "iterref" and len(parts) > 1:
            known = [".".join(parts[1:end]) for end in range(2, len(parts) + 1) if ".".join(parts[1:end]) in FILES]
            found |= set(known[-1:])
    return found


def wrong_imports(module: str, source: str) -> list[str]:
    """The imports of a module that point the wrong way."""
    room, names = room_of(module), imports(source)
    wrong = [name for name in names if name.startswith(".")]
    for name in own(names):
        other = room_of(name)
        if other == room or ((room, other) in TYPED and name not in own(imports(source, types=False))):
            continue
        allowed = other in LEVEL and LEVEL[other] < LEVEL[room]
        if other == "models":
            allowed &= room in TOP
        if other == "rewards" and room in CORE:
            allowed &= room in OF_REWARDS[0] and name in OF_REWARDS[1]
        if not allowed:
            wrong.append(name)
    if room in PURE:
        wrong += [name for name in names if name.split(".")[0] in HEAVY]
    return sorted(wrong)


def top_closure(module: str) -> set[str]:
    """All that importing a module loads, by the imports at the top of files."""
    seen: set[str] = set()
    loaded: set[str] = set()
    waiting = {module}
    while waiting:
        here = waiting.pop()
        seen.add(here)
        names = imports(SOURCES[here], top_only=True)
        loaded |= {name.split(".")[0] for name in names}
        parents = {room_of(here)} & set(FILES)
        waiting |= (own(names) | parents) - seen
    return loaded


MODULES = sorted(set(FILES) - FACADE)


def test_every_room_has_its_place():
    assert {room_of(module) for module in MODULES} <= set(LEVEL)
    assert set(LEVEL) - {"samplers.base"} <= {room.split(".")[0] for room in FILES}  # and no place is left over


def test_the_page_on_the_architecture_names_every_room():
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {name.strip("/").replace("/", ".") for name in re.findall(r"`([a-z_/]+)`", page)}
    assert sorted(set(LEVEL) - named) == []


def test_imports_point_one_way():
    wrong = {module: wrong_imports(module, SOURCES[module]) for module in MODULES}
    assert {module: names for module, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    "module, planted, named",
    [
        ("samplers.ancestral", "from iterref.exact.table import Table", "exact.table"),
        ("samplers.ancestral", "from iterref import sampling", "sampling"),
        ("samplers.iterref", "from iterref.rewards.base import Reward", "rewards.base"),
        ("samplers.base", "from iterref.samplers.smc import SMC", "samplers.smc"),
        ("samplers.base", "from iterref.moves.shared import Shared", "moves.shared"),
        ("moves.shared", "import iterref.rewards.rouge", "rewards.rouge"),
        ("moves.shared", "from iterref.samplers.iterref import IterRef", "samplers.iterref"),
        ("moves.shared", "def f():\n    from iterref.sampling import sample", "sampling"),
        ("moves.shared", "def f():\n    import transformers", "transformers"),
        ("rewards.rouge", "from iterref.samplers.base import Sampler", "samplers.base"),
        ("rewards.rouge", "from iterref.models import mdlm", "models.mdlm"),
        ("rewards.rouge", "from iterref.problem import Problem", "problem"),
        ("models.mdlm", "from iterref.problem import Problem", "problem"),
        ("models.mdlm", "from iterref.rewards.base import Reward", "rewards.base"),
        ("problem", "from iterref.rewards.rouge import Rouge", "rewards.rouge"),
        ("decoding", "def f():\n    from iterref.run import Run", "run"),
        ("result", "import iterref.report", "report"),
        ("mtm", "from iterref.samplers.base import State", "samplers.base"),
        ("noise", "from iterref.denoiser import Denoiser", "denoiser"),
        ("random", "from iterref.noise import Noise", "noise"),
        ("sampling", "from iterref.cli import main", "cli"),
        ("sampling", "from iterref.models.base import TextModel", "models.base"),
        ("run", "from iterref.exact.markov import world", "exact.markov"),
        ("run", "from . import trace", "..trace"),
    ],
)
def test_a_planted_import_is_detected(module, planted, named):
    source = SOURCES[module] + "\n" + planted + "\n"
    assert wrong_imports(module, source) == [named]


def test_heavy_packages_are_loaded_where_they_are_used():
    loaded = {module: {name.split(".")[0] for name in imports(SOURCES[module], top_only=True)} for module in FILES}
    assert {module: names & HEAVY for module, names in loaded.items() if names & HEAVY} == {}


@pytest.mark.parametrize("module", ["run", "registry", "generation", "rewards", "cli", "training", "loading"])
def test_nothing_heavy_comes_along(module):
    assert top_closure(module) & HEAVY == set()


def test_the_closure_sees_what_comes_along():
    """Negative control: what comes along is found, through another module too."""
    assert "iterref" in top_closure("report.plots")
    assert {"torch", "rapidfuzz", "tqdm"} <= top_closure("generation")
    assert imports("def f():\n    import datasets") == {"datasets"}
    assert imports("def f():\n    import datasets\nif TYPE_CHECKING:\n    import ray", top_only=True) == set()
    assert imports("try:\n    import datasets\nexcept ImportError:\n    pass", top_only=True) == {"datasets"}


@pytest.mark.parametrize("module", sorted(FILES))
def test_a_file_keeps_the_rules_of_the_house(module):
    """It says what it is, stays short, documents what is public, prints nothing and has no loose ends."""
    source, tree = SOURCES[module], parsed(SOURCES[module])
    docstring = ast.get_docstring(tree)
    assert docstring and docstring.splitlines()[0].rstrip().endswith((".", ":"))
    assert len(source.splitlines()) <= MOST_LINES
    assert "from __future__ import annotations" in source or FILES[module].name == "__init__.py"
    assert undocumented(tree) == []
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "print" not in called and "kwargs.get" not in called
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree))
    assert "TODO" not in source and "FIXME" not in source


def undocumented(tree: ast.Module) -> list[str]:
    """Functions and classes that a reader of the file meets first; a network's blocks are named after what they do."""
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
        and not (isinstance(node, ast.ClassDef) and "nn.Module" in {ast.unparse(base) for base in node.bases})
    ]
