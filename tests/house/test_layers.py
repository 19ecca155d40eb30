"""The house rules, read from the source: imports point one way, every file says what it is and stays short."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import iterref

ROOT = Path(iterref.__file__).parent
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(ROOT.rglob("*.py"))
}

# From the ground up: a room may use the rooms above it in this list, and itself.
ORDER = [
    {"columns", "files", "hub", "interrupts", "lines", "optional", "paired", "progress", "legacy", "sources"},
    {"forms"},
    {"registry"},
    {"lazy", "strings"},
    {"random", "footprint"},
    {"noise"},
    {"denoiser"},
    {"guidance"},
    {"budget", "rewards", "unmask", "padding"},
    {"evaluation"},
    {"problem"},
    {"mtm", "decode", "particles", "potentials", "resample"},
    {"kernels"},
    {"samplers"},
    {"trace"},
    {"run"},
    {"drafts", "report", "adaptive"},
    {"loading", "check"},
    {"arguments"},
    {"generation", "training"},
    {"estimation"},
    {"comparison", "editing", "engine"},
    {"demo"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
TOP = {"drafts", "loading", "generation", "training", "editing", "check", "demo", "cli", "comparison"}  # may know a model
LOW = {"hub", "optional", "random", "noise", "denoiser", "guidance", "models", "registry"}  # whom a model may know
HEAVY = {"transformers", "datasets", "diffusers", "matplotlib", "rouge_score", "nltk", "ray", "vllm"}
LATE = {"result": {"report"}}  # a result saves itself as a page, which is loaded only then
FACADE = {"__init__", "iterref", "models", "rewards", "samplers"}  # public names of what lies below


def room_of(module: str) -> str:
    return module.split(".")[0]


def imports(source: str, top_only: bool = False) -> set[str]:
    """Everything that a source imports, with dots, `from a import b` as a.b; `top_only` leaves out functions' own."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        if top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if top_only and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def own(names: set[str]) -> set[str]:
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
        if other == room or (other in LATE.get(room, set()) and name not in imports(source, top_only=True)):
            continue
        if room == "models":
            allowed = other in LOW
        elif other == "models":
            allowed = room in TOP
        else:
            allowed = other in LEVEL and LEVEL[other] < LEVEL[room]
        if room in {"samplers", "kernels"} and other == "rewards":
            allowed = False
        if room == "problem" and other == "rewards":
            allowed = name in {"rewards.base", "rewards.algebra", "rewards.memory"}
        if not allowed:
            wrong.append(name)
    if room in {"samplers", "kernels", "problem", "mtm", "decode", "random", "noise", "denoiser"}:
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
        names = imports(FILES[here].read_text(), top_only=True)
        loaded |= {name.split(".")[0] for name in names}
        parents = {room_of(here)} & set(FILES)
        waiting |= (own(names) | parents) - seen
    return loaded


MODULES = sorted(set(FILES) - FACADE)


def test_every_room_has_its_place():
    assert {room_of(module) for module in MODULES} <= set(LEVEL) | {"models"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    assert wrong_imports(module, FILES[module].read_text()) == []


@pytest.mark.parametrize(
    "module, planted, named",
    [
        ("samplers.ancestral", "from iterref.exact.table import Table", "models.table"),
        ("samplers.ancestral", "from iterref import run", "run"),
        ("samplers.iterref", "from iterref.rewards.base import Reward", "rewards.base"),
        ("kernels.shared", "import iterref.rewards.rouge", "rewards.rouge"),
        ("kernels.shared", "def f():\n    from iterref.run import sample", "run"),
        ("kernels.shared", "def f():\n    import transformers", "transformers"),
        ("rewards.rouge", "from iterref.samplers.base import Sampler", "samplers.base"),
        ("rewards.rouge", "from iterref.models import table", "models.table"),
        ("rewards.rouge", "from iterref.problem import Problem", "problem"),
        ("models.table", "from iterref.problem import Problem", "problem"),
        ("problem", "from iterref.rewards.rouge import Rouge", "rewards.rouge"),
        ("mtm", "from iterref.kernels import State", "kernels"),
        ("noise", "from iterref.denoiser import Denoiser", "denoiser"),
        ("random", "from iterref.noise import Noise", "noise"),
        ("run", "from iterref.cli import main", "cli"),
        ("run", "from iterref.exact.markov import world", "models.markov"),
        ("run", "from . import trace", "..trace"),
    ],
)
def test_a_planted_import_is_detected(module, planted, named):
    source = FILES[module].read_text() + "\n" + planted + "\n"
    assert wrong_imports(module, source) == [named]


@pytest.mark.parametrize("module", [*MODULES, *(FACADE & set(FILES))])
def test_heavy_packages_are_loaded_where_they_are_used(module):
    loaded = {name.split(".")[0] for name in imports(FILES[module].read_text(), top_only=True)} & HEAVY
    assert loaded == set()


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
def test_every_file_says_what_it_is_and_stays_short(module):
    source = FILES[module].read_text()
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring and docstring.splitlines()[0].rstrip().endswith((".", ":"))
    assert len(source.splitlines()) <= 500
    assert "from __future__ import annotations" in source or FILES[module].name == "__init__.py"


@pytest.mark.parametrize("module", sorted(FILES))
def test_what_is_public_is_documented(module):
    """Functions and classes that a reader of the file meets first; a network's blocks are named after what they do."""
    bare = []
    for node in ast.parse(FILES[module].read_text()).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        block = isinstance(node, ast.ClassDef) and "nn.Module" in {ast.unparse(base) for base in node.bases}
        if ast.get_docstring(node) is None and not block:
            bare.append(node.name)
    assert bare == []


@pytest.mark.parametrize("module", sorted(FILES))
def test_no_prints_and_no_loose_ends(module):
    tree = ast.parse(FILES[module].read_text())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "print" not in called and "kwargs.get" not in called
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree))
    assert "TODO" not in FILES[module].read_text() and "FIXME" not in FILES[module].read_text()
