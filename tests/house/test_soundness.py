"""Soundness: files that lie, paths that lead away, texts that are markup, and code that hides in weights."""

from __future__ import annotations

import ast
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import iterref
from benchmarks import records
from benchmarks.frame.command import read_option
from benchmarks.frame.plan import Plan
from benchmarks.tasks import constraints
from benchmarks.tasks.world import World
from iterref import lines, loading
from iterref.cli.reading import read_prompts
from iterref.hub import read_json
from iterref.models.checkpoint import Checkpoint
from iterref.report import page, table
from iterref.report.chart import Line, chart
from iterref.training.data import read_pairs
from tests.support.commands import call, refused
from tests.support.fakes import FakeModel
from tests.support.pages import EVIL, Reader, data_of, run, words

ROOT = Path(iterref.__file__).parent
SOURCES = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in ROOT.rglob("*.py")}

# --- lines ------------------------------------------------------------------------------------------------------------

GOOD = b'{"document": "one", "summary": "a"}\n'
BAD = {
    "no UTF-8": (b'{"document": "\xff", "summary": "a"}', "line 3 of {} is no UTF-8 text: save it as UTF-8"),
    "NUL": (b'{"document": "a\0", "summary": "a"}', "line 3 of {} holds the byte NUL"),
    "surrogate": (b'{"document": "a", "summary": "a", "\\ud83d": 1}', "line 3 of {} is no UTF-8 text"),
    "broken": (b'{"document": "a", "summ', "line 3 of {} is no JSON"),
    "deep": (b'{"document": ' + b"[" * 50_000, "line 3 of {} is nested too deeply"),
    "digits": (b'{"n": ' + b"9" * 5_000 + b"}", "line 3 of {} holds a number of thousands of digits"),
    "no object": (b'["document"]', "line 3 of {} is a JSON list and no object"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_refused_by_its_number(kind: str, tmp_path: Path) -> None:
    content, sentence = BAD[kind]
    for name, packed in (("rows.jsonl", False), ("rows.jsonl.gz", True)):
        file, whole = tmp_path / name, GOOD + b"\n" + content + b"\n" + GOOD
        file.write_bytes(gzip.compress(whole) if packed else whole)
        for read in (records.read, lambda file: read_pairs([file])):
            with pytest.raises(ValueError) as caught:
                read(file)
            assert str(caught.value).startswith(sentence.format(name))
    with pytest.raises(ValueError) as caught:
        read_prompts(io.BytesIO(whole))
    assert str(caught.value).startswith("line 3 ")


def test_what_looks_like_a_bad_line_and_is_none_is_read(tmp_path: Path) -> None:
    """The control: escapes that mean something, and characters that only look like line ends."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"document": "\\ud83d\\ude00 \\u0000 \\\\ud800 \\u00e9 ' + "é\u2028😀".encode() + b'"}\n')
    assert records.read(file).documents == ("😀 \0 \\ud800 é é\u2028😀",)


def test_a_line_without_end_is_not_read_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lines, "MOST", 100)

    class Endless(io.RawIOBase):
        asked = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            buffer[:] = b"x" * len(buffer)
            Endless.asked += len(buffer)
            return len(buffer)

    with pytest.raises(ValueError, match="line 1 of the input has more than 100 characters: write one text a line"):
        read_prompts(io.BufferedReader(Endless()))
    assert Endless.asked < 2**16
    (tmp_path / "texts.txt").write_text("x" * 100)  # the longest that there may be
    assert read_pairs([tmp_path / "texts.txt"]) == [("", "x" * 100)]


def test_other_files_of_text_say_what_they_are_not(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("[" * 50_000)
    with pytest.raises(ValueError, match="config.json of it is no JSON"):
        read_json(file, "it")
    file.write_bytes(b"1" * 16 + b"\n\xff")
    with pytest.raises(ValueError, match="line 2 of config.json is no UTF-8 text"):
        constraints.read(file)
    assert read_option("limit=[1]") == ("limit", "[1]") and read_option("limit=" + "[" * 9999)[1] == "[" * 9999


# --- paths ------------------------------------------------------------------------------------------------------------

AWAY = ["../away", "/tmp/away", "masked-24-8-pairs-a0.5/../../away", "a\\..\\b", "."]


@pytest.mark.parametrize("name", AWAY)
def test_names_that_become_files_hold_no_way_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown world"):
        World.read(name)
    with pytest.raises(ValueError, match="constraints has no"):
        Plan("constraints", tmp_path, cases=(name,), quick=True)
    assert World.read("masked-24-8-pairs-a0.5").length == 24  # the control


def test_a_checkpoint_s_index_names_files_beside_it_alone(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    for part in ("../secret.safetensors", str(tmp_path / "secret.safetensors")):
        index = json.dumps({"weight_map": {"a": part}})
        (folder / "model.safetensors.index.json").write_text(index)
        with pytest.raises(FileNotFoundError, match="which its index names"):
            Checkpoint.open(folder).weights()


# --- pages ------------------------------------------------------------------------------------------------------------

ANY = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12) | st.sampled_from([
    EVIL, "]]>", "<!--", "--!>", "<script>", "</SCRIPT\n>", "&lt;b&gt;", "\"'`", "\u2028", "\0", "<svg/onload=a>",
])  # fmt: skip
RESULT = run(watch=(0,), decode=words)
PLAIN = page(RESULT, "abc".__getitem__)


@settings(max_examples=20, deadline=None)
@given(st.lists(ANY, min_size=4, max_size=4), st.lists(ANY, min_size=4, max_size=4))
@example([EVIL] * 4, [EVIL] * 4)
def test_whatever_texts_say_the_markup_of_a_page_is_the_same(texts: list[str], named: list[str]) -> None:
    result = replace(RESULT, texts=texts)
    text = page(result, named.__getitem__)
    reader, plain = Reader(text), Reader(PLAIN)
    assert [tag for tag, _ in reader.tags] == [tag for tag, _ in plain.tags] and reader.open == []
    assert [set(told) for _, told in reader.tags] == [set(told) for _, told in plain.tags]
    assert set(data_of(text)["names"].values()) <= set(named)
    assert Reader(table(result)).of("td") == Reader(table(RESULT)).of("td")


@settings(max_examples=20, deadline=None)
@given(ANY, ANY, ANY)
def test_whatever_is_measured_the_markup_of_a_chart_is_the_same(name: str, label: str, axis: str) -> None:
    drawn = Reader(chart([Line(name, 0, [1, 2], [0.0, 1.0], "s0")], label, None, axis))
    assert drawn.tags[0][0] == "figure" and drawn.open == []
    plain = Reader(chart([Line("a", 0, [1, 2], [0.0, 1.0], "s0")], "a", None, "a"))
    assert [tag for tag, _ in drawn.tags] == [tag for tag, _ in plain.tags]
    assert [set(told) for _, told in drawn.tags] == [set(told) for _, told in plain.tags]


def test_the_comparison_of_markup_sees_what_is_not_escaped() -> None:
    """The control: the same page with one text that was let through."""
    assert [tag for tag, _ in Reader(PLAIN.replace("</td></tr>", "<b>x</b></td></tr>")).tags] != [
        tag for tag, _ in Reader(PLAIN).tags
    ]


# --- code -------------------------------------------------------------------------------------------------------------

UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy", "code"}
RUNNING = {"eval", "exec", "compile", "__import__", "torch.hub.load", "os.system", "os.popen", "yaml.load", "np.load"}
RUNNING |= {"numpy.load", "pd.read_pickle", "pandas.read_pickle"}
OWN_FUNCTIONS = "rewards/from_file.py"  # the user's own file of a reward, named to be run
OWN_CHECKPOINT = "training/folder.py"  # what `iterref train` wrote into its folder, to go on from
OF_PACKAGES = "packaged/source.py"  # weights inside installed packages, of known bytes, by the restricted reader
# Programs that `UnitTests` judges, and their tests: what runs inside of a jail alone, in processes started for it.
IN_JAIL = ("rewards/sandbox/candidate.py", "rewards/sandbox/asker.py")
OWN_PROCESSES = "engine/cluster.py"  # what a run's own processes hand each other, as Ray does, and never a file


def dangers(name: str, source: str) -> list[str]:
    """What in a source could run code that came as data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [module for module in modules if module.split(".")[0] in UNPICKLING and name != OWN_PROCESSES]
            if isinstance(node, ast.ImportFrom) and node.module == "torch":
                found += [f"torch.{alias.name}" for alias in node.names if alias.name in ("load", "hub")]
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
        jailed = name in IN_JAIL and called in ("exec", "compile")
        if (called in RUNNING and not jailed) or (called.endswith("exec_module") and name != OWN_FUNCTIONS):
            found.append(called)
        restricted = name in (OWN_CHECKPOINT, OF_PACKAGES) and given.get("weights_only") == "True"
        if called == "torch.load" and not restricted:
            found.append(called)
        if given.get("trust_remote_code", "False") != "False" or given.get("weights_only", "True") != "True":
            found.append(f"{called} of remote code")
        if given.get("allow_pickle", "False") != "False" or given.get("use_safetensors", "True") != "True":
            found.append(f"{called} of pickles")
    return found


def test_nothing_that_is_read_can_run() -> None:
    found = {name: dangers(name, source) for name, source in SOURCES.items()}
    assert {name: dangerous for name, dangerous in found.items() if dangerous} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle", "from dill import loads", "def f():\n    import joblib.externals", "torch.load(path)",
        "torch.load(path, weights_only=False)", "from torch import load", "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)", "AutoModel.from_pretrained(name, use_safetensors=x)",
        "eval(text)", "exec(text)", "spec.loader.exec_module(module)",
    ],
)  # fmt: skip
def test_planted_dangers_are_found(planted: str) -> None:
    assert dangers("models/any.py", planted) != []


def test_the_exceptions_are_still_what_they_are() -> None:
    """The user's own file, the trainer's own checkpoint by the restricted reader, one place in each file that runs in a
    jail, and no file of pickles."""
    for name in IN_JAIL:
        assert SOURCES[name].count("exec(compile(") == SOURCES[name].count("exec(") == 1
    assert "pickle.load(" not in SOURCES.get(OWN_PROCESSES, "")
    assert SOURCES[OWN_FUNCTIONS].count("exec_module(") == 1
    for name in (OWN_CHECKPOINT, OF_PACKAGES):
        assert SOURCES[name].count("torch.load(") == SOURCES[name].count("weights_only=True)") == 1


# --- the command line -------------------------------------------------------------------------------------------------


def test_lines_and_numbers_that_lie_are_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(name: str | None = None, **place: Any) -> FakeModel:
        return FakeModel()

    monkeypatch.setattr(loading, "load", fake)
    asked = ("generate", "--reward", "length")
    refused(call(*asked, text='{"document": "one"}\n{"document": "\0"}\n'), "line 2 of the input holds the byte NUL")
    refused(call(*asked, "--sampler", "iterref:steps=99999999", text="one"), "iterref:steps is at most 1048576, got")
    refused(call(*asked, "--budget", "1e9", text="one"), "is for more than 1048576 calls a text")
    refused(call("generate", "--reward", "https://", text="one"), "is no address of a reward server")
