"""Outputs: refused before the first row where they cannot be written, and nothing lost where that shows later; what one
command writes the next one reads; what broke off goes on."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from iterref import cli, editing, files, loading
from iterref.cli import edit, writing
from iterref.files import expect_writable, whole
from tests.support.commands import call, refused
from tests.support.fakes import FakeModel

METHOD = "iterref:steps=2,moves=3,tries=3"
SMALL = ("--method", METHOD, "--reward", "length:2")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small exact model in place of the bundled one."""
    monkeypatch.setattr(loading, "load", lambda name, **place: FakeModel())


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""

    def load(*given: Any, **options: Any) -> None:
        raise AssertionError("the model was loaded before the outputs were checked")

    monkeypatch.setattr(loading, "load", load)


def entries(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def line(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_or_stays(tmp_path: Path) -> None:
    file = tmp_path / "out.txt"
    file.write_text("before")
    file.chmod(0o640)
    with pytest.raises(RuntimeError), whole(file) as opened:
        opened.write(b"half")
        raise RuntimeError
    assert file.read_text() == "before" and os.listdir(tmp_path) == ["out.txt"]
    link = tmp_path / "link"
    link.symlink_to(file)
    with whole(link) as opened:
        opened.write(b"after")
    assert file.read_text() == "after" and link.is_symlink() and file.stat().st_mode & 0o777 == 0o640
    expect_writable(file)
    assert file.read_text() == "after" and sorted(os.listdir(tmp_path)) == ["link", "out.txt"]


WRONG = {
    "{tmp}/none/out.txt": "there is no folder {tmp}/none): make it, or name another file",
    "{tmp}": "it is a folder): name a file in it",
    "{tmp}/file/out.txt": "{tmp}/file is no folder): name another file",
    "/dev/full": "the disk is full): make room, or name another file",
    "{tmp}/" + "x" * 300: "its name is too long): name another file",
}


@pytest.mark.parametrize("path", WRONG)
@pytest.mark.parametrize("command", ["generate --out", "generate --html", "refine --out", "demo --html"])
def test_an_output_that_cannot_be_written_is_refused_first(
    no_model: None, command: str, path: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    name, option = command.split()
    text = line(document="one", text="[alpha]")
    done = call(name, option, path.format(tmp=tmp_path), text="" if name == "demo" else text)
    refused(done, WRONG[path].format(tmp=tmp_path))
    assert done.stdout == "" and len(done.stderr.splitlines()[-1].split("Error: ")) == 2


def test_a_file_that_may_not_be_written_is_refused(
    no_model: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out.txt"
    out.write_text("mine")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a test may run as root, who may write anything
    refused(call("generate", "--out", str(out), text="one\n"), "it is read-only): name another file")
    assert out.read_text() == "mine"
    both = ("--out", str(tmp_path / "x"), "--html", str(tmp_path / "x"))
    refused(call("generate", *both, text="one\n"), "is to be written twice: name two files")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fills_up_during_the_run_loses_nothing(
    fake: None, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("before")
    plain = call("generate", "--json", *SMALL, text="one\none two\n").stdout

    @contextmanager
    def full(path: str) -> Iterator[None]:
        raise OSError(code, os.strerror(code))
        yield

    monkeypatch.setattr(writing, "whole", full)
    done = call("generate", "--json", "--out", str(out), *SMALL, text="one\none two\n")
    refused(done, f"{out} cannot be written (", code=1)
    saved = Path(done.stderr.strip().rpartition("the texts are in ")[2])
    assert saved.read_text() == plain and out.read_text() == "before"
    saved.unlink()


def test_a_reader_that_has_seen_enough_is_no_error(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*given: Any, **options: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patched:
        patched.setattr(writing.click, "echo", closed)
        done = call("generate", *SMALL, text="one\n")
    assert done.exit_code == 1 and done.stderr == ""


# --- from command to command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "text"), [("document", "text"), ("prompt", "completion")])
def test_fields_ids_and_tokens_go_through_all_commands(fake: None, prompt: str, text: str) -> None:
    given = line(id="a7", **{prompt: "one"}, tags=["x", 1], tone="dry") + line(
        id="b8", **{prompt: "one two"}, tags=[], tone="wry"
    )
    found = call("generate", "--json", *SMALL, text=given)
    for command in (("refine", "--strength", "0.5"), ("infill",)):
        if command == ("infill",):
            marked = [{**each, text: f"[{each[text]}]"} for each in entries(found.stdout)]
            found = call(*command, "--json", *SMALL, text="".join(line(**each) for each in marked))
        else:
            found = call(*command, "--json", *SMALL, text=found.stdout)
        assert found.exit_code == 0, found.output
        for each, own in zip(entries(found.stdout), entries(given), strict=True):
            assert set(each) == {*own, text, "reward", "cost", "tokens"} and own.items() <= each.items()
            assert FakeModel().decode(torch.tensor([each["tokens"]])) == [each[text]]


def test_tokens_that_a_text_came_with_are_taken_and_those_of_another_text_are_not(
    fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that the model reads otherwise than it wrote it: `decode` drops what stands behind the end."""
    seen: list[Any] = []
    def look(model: Any, texts: Any, **options: Any) -> None:
        seen.append(texts if isinstance(texts, list) else texts.tolist())
        raise ValueError("seen")

    monkeypatch.setattr(editing, "refine", look)
    for ids, text, wanted in (
        ([0, 4, 1], "alpha", [[0, 4, 1]]),  # encode gives [0, 4, 4]
        ([0, 4, 1], "beta", ["beta"]),  # the text was changed by hand
        ([0, 99, 1], "alpha", ["alpha"]),  # of another model
        ([0, 4], "alpha", ["alpha"]),
        ("tokens", "alpha", ["alpha"]),
        ([0.0, 4, 1], "alpha", ["alpha"]),
    ):
        refused(call("refine", *SMALL, text=line(document="one", text=text, tokens=ids)), "seen")
        assert seen.pop() == wanted


# --- what broke off ---------------------------------------------------------------------------------------------------

STOPPING = """
calls = []

def stopping(completions):
    calls.append(1)
    if len(calls) == {call}:
        raise KeyboardInterrupt
    return [0.5 * len(text) for text in completions]
"""
LONG = "iterref:steps=2,moves=9,tries=2,decisions=1,early=0"
RUNS = {
    "generate": (LONG, line(document="one", id=1) + line(document="one two", id=2)),
    "refine": ("iterref:moves=9,tries=2", line(document="one", text="alpha") + line(document="one two", text="gamma")),
    "infill": (LONG, line(document="one", text="[alpha] beta") + line(document="one two", text="gamma [alpha] gamma")),
}


@pytest.mark.parametrize("name", RUNS)
def test_after_ctrl_c_the_same_command_goes_on_from_its_file(fake: None, name: str, tmp_path: Path) -> None:
    file, out, (method, text) = tmp_path / "mine.py", tmp_path / "out.jsonl", RUNS[name]
    file.write_text(STOPPING.format(call=5))
    options = ("--json", "--method", method, "--out", str(out))
    command = (name, *options, "--reward", f"{file}:stopping")
    refused(call(*command, text=text), f"the texts so far are written to {out}: rerun the command to resume", code=1)
    reached = entries(out.read_text())
    assert all(each["unfinished"] and each["text"] and each["tokens"] for each in reached)
    file.write_text(STOPPING.format(call=0))
    refused(call(*command, "--seed", "1", text=text), "holds the unfinished texts of another command", code=2)
    refused(call(*command, text=text.replace("two", "three")), "holds the unfinished texts of another command")
    assert entries(out.read_text()) == reached  # a refusal leaves them alone
    done = call(*command, text=text)
    assert done.exit_code == 0 and f"going on from the texts in {out}" in done.stderr, done.output
    found = entries(out.read_text())
    for new, old, own in zip(found, reached, entries(text), strict=True):
        assert new["reward"] >= old["reward"] and new["cost"]["nfe"] > old["cost"]["nfe"]
        assert "unfinished" not in new and "marked" not in new and own.keys() <= new.keys()
    if name == "infill":
        assert found[0]["text"].endswith(" beta") and found[1]["text"].startswith("gamma ")
    assert call(*command, text=text).stderr == ""  # what is finished is made anew


def test_a_run_that_broke_off_within_its_drafts_keeps_them(fake: None, tmp_path: Path) -> None:
    """No reward has judged a text yet: before, nothing was written."""
    file = tmp_path / "mine.py"
    for method in ("iterref:steps=3,moves=9", "smc:particles=2,steps=4"):
        file.write_text(STOPPING.format(call=1))
        command = ("generate", "--json", "--method", method, "--reward", f"{file}:stopping")
        done = call(*command, text="one\none two\n")
        refused(done, "interrupted; the texts so far are written: go on from these lines with `iterref refine`", code=1)
        found = entries(done.stdout)
        assert [each["document"] for each in found] == ["one", "one two"]
        assert all(each["text"] is not None and each["reward"] is None for each in found)
        file.write_text(STOPPING.format(call=0))  # and the advice works
        command = ("refine", "--json", "--method", "iterref:moves=2", "--reward", f"{file}:stopping")
        again = call(*command, text=done.stdout)
        assert again.exit_code == 0 and all(each["reward"] is not None for each in entries(again.stdout)), again.output


def test_the_pool_s_drafts_are_kept_before_the_method_has_any(
    fake: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from iterref.samplers.iterref import IterRef

    def stops(*given: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(IterRef, "init", stops)
    done = call("generate", "--json", "--method", METHOD, "--reward", "consensus:n=3", text="one\none two\n")
    assert done.exit_code == 1 and "the texts so far are written" in done.stderr, done.output
    assert all(each["reward"] is None and each["tokens"] for each in entries(done.stdout))


def test_a_method_that_cannot_start_from_texts_says_so(fake: None, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "out.jsonl"
    file.write_text(STOPPING.format(call=2))
    command = ("generate", "--json", "--method", "smc:particles=2,steps=4", "--out", str(out))
    done = call(*command, "--reward", f"{file}:stopping", text="one\n")
    refused(done, f"the texts so far are written to {out}: go on from them with `iterref refine {out}`", code=1)
    assert "unfinished" not in entries(out.read_text())[0]
    file.write_text(STOPPING.format(call=0))
    assert call("refine", str(out), "--method", METHOD, "--reward", f"{file}:stopping").exit_code == 0


def test_marks_come_back_around_what_the_regions_hold() -> None:
    for marked, text, wanted in (
        ("police [arrest two] men", "police find some men", "police [find some] men"),
        ("[a] cat [sat]", "the cat lay down", "[the] cat [lay down]"),
        ("a [b] c", "a  c", "a []c"),  # the blank belongs to what is kept
        (r"\[x\] [b]", "[x] d", r"\[x\] [d]"),
        ("a [b]", "other", None),
    ):
        found = edit.remarked(marked, text)
        assert (found and " ".join(found.split())) == (wanted and " ".join(wanted.split()))


def test_every_command_that_writes_checks_its_outputs() -> None:
    """The control: `files` is what the commands ask."""
    assert writing.expect_writable is files.expect_writable and cli.expect_outputs is writing.expect_outputs
