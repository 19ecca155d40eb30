"""Outputs: refused before the first row where they cannot be written, and nothing lost where that shows later; what one
command writes the next one reads; what broke off goes on."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from iterref import cli, editing, files, loading
from iterref.cli import runs, writing
from iterref.files import expect_writable, whole, write_whole
from iterref.rewards import from_file
from tests.support.commands import call, refused
from tests.support.fakes import FakeModel

METHOD = "iterref:steps=2,moves=3,tries=3"
SMALL = ("--sampler", METHOD, "--reward", "length:2")


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
    there, pipe = os.pipe()  # as of `--out /dev/stdout | gzip`, which failed when the run was over
    with whole(f"/dev/fd/{pipe}") as opened:
        opened.write(b"piped")
    assert os.read(there, 9) == b"piped"
    for end in (there, pipe):
        os.close(end)
    for folder in ("", ".", "/", str(tmp_path)):
        with pytest.raises(OSError, match=r"cannot be written \(it is a folder\): name a file in it"):
            write_whole(Path(folder), "text")
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


OUTPUTS = ["generate --out", "generate --html", "refine --out", "infill --out", "compare --out"]


@pytest.mark.parametrize("command", OUTPUTS)
def test_the_input_is_no_output(no_model: None, command: str, tmp_path: Path) -> None:
    """Before, it was overwritten."""
    name, option = command.split()
    file, link = tmp_path / "texts.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(file)
    content = line(document="one", text="[alpha]")
    file.write_text(content)
    more = ("--sampler", "iterref", "--sampler", "smc", "--budget", "4") if name == "compare" else ()
    for path in (file, link):
        refused(call(name, str(file), option, str(path), *more), "is the input, which would be lost: name another file")
    assert file.read_text() == content
    refused(call("generate", option, f"{tmp_path}/new/", text="one\n") if name == "generate" else call(name, str(file),
            option, f"{tmp_path}/new/", *more), "it is a folder): name a file in it")  # fmt: skip


def test_a_reward_that_goes_to_another_folder_takes_no_output_along(
    fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    file = tmp_path / "moving.py"
    body = f"    os.chdir({str(there)!r})\n    return [1.0] * len(completions)\n"
    file.write_text(f"import os\ndef f(completions):\n{body}")
    done = call("generate", "--sampler", METHOD, "--reward", f"{file}:f", "--out", "out.txt", text="one\n")
    assert done.exit_code == 0, done.output
    assert os.listdir(here) == ["out.txt"] and os.listdir(there) == []


def test_a_reward_that_ends_the_process_is_an_error(fake: None, tmp_path: Path) -> None:
    """Before, the command ended with exit code 0 and without texts."""
    file = tmp_path / "ending.py"
    file.write_text("import sys\ndef f(completions):\n    sys.exit(0)\n")
    done = call("generate", "--sampler", METHOD, "--reward", f"{file}:f", text="one\n")
    refused(done, "the reward raised SystemExit (0) in a call for row 0", code=1)


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


def test_a_field_of_one_s_own_is_kept_and_judged_whatever_its_name(fake: None, tmp_path: Path) -> None:
    """`slots` and `unfinished` of another form than this library's were taken for its own, and left out."""
    judge = "def f(completions, slots, **other):\n    return [float(slot['size']) for slot in slots]\n"
    (tmp_path / "mine.py").write_text(judge)
    own = {"slots": {"size": 3}, "unfinished": True, "marked": "x"}
    done = call("generate", "--json", *SMALL[:2], "--reward", f"{tmp_path}/mine.py:f", text=line(document="one", **own))
    [found] = entries(done.stdout)
    assert found["reward"] == 3.0 and {name: found[name] for name in own} == own
    again = call("refine", "--json", *SMALL, text=done.stdout)  # what a command wrote is for the next one
    assert isinstance(entries(again.stdout)[0]["tokens"], list) and entries(again.stdout)[0]["slots"] == own["slots"]


# --- what broke off ---------------------------------------------------------------------------------------------------

STOPPING = """
from pathlib import Path

calls = []

def stopping(completions):
    calls.append(1)
    if len(calls) == {call} and not Path({quiet!r}).exists():
        raise {error}
    return [0.5 * len(text) for text in completions]
"""
LONG = "iterref:steps=2,moves=9,tries=2,decisions=1,early=0"
EDITED = [line(document="one", text="[alpha] beta", id=row) for row in range(5)]
RUNS = {
    "generate": (LONG, [line(document=" ".join(["one"] * (1 + row % 3)), id=row) for row in range(5)]),
    "refine": ("iterref:moves=9,tries=2", [each.replace("[", "").replace("]", "") for each in EDITED]),
    "infill": (LONG, EDITED),
}


def stopping(folder: Path, call: int, error: str = "KeyboardInterrupt") -> tuple[str, Path]:
    """A reward that breaks off at a call, unless a file is there, which is no part of its code."""
    file, quiet = folder / "mine.py", folder / "quiet"
    file.write_text(STOPPING.format(call=call, quiet=str(quiet), error=error))
    from_file._LOADED.clear()  # calls are counted from the first one
    return f"{file}:stopping", quiet


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "GeneratorExit"])  # the latter as a kill, which writes nothing
@pytest.mark.parametrize("name", RUNS)
def test_a_rerun_after_ctrl_c_gives_the_file_of_the_undisturbed_run(
    fake: None, name: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PART", 2)
    out, (method, lines) = tmp_path / "out.jsonl", RUNS[name]
    reward, quiet = stopping(tmp_path, 5 if name == "infill" else 17, error)
    command = (name, "--json", "--sampler", method, "--out", str(out), "--reward", reward)
    text = "".join(lines)
    quiet.touch()
    assert call(*command, text=text).exit_code == 0
    undisturbed = out.read_bytes()
    assert call(*command, text=text).stderr == "" and out.read_bytes() == undisturbed  # what is finished is made anew
    quiet.unlink()
    out.unlink()
    from_file._LOADED.clear()
    if error != "KeyboardInterrupt":
        with pytest.raises(GeneratorExit):
            call(*command, text=text)
        if name == "infill":
            return  # one part: a kill leaves no file
        assert sum("unfinished" in each for each in entries(out.read_text())) == 3
    else:
        told = f"the texts so far are written to {out}: rerun the command to resume"
        refused(call(*command, text=text), told, code=1)
        reached, finished = entries(out.read_text()), 0 if name == "infill" else 2
        assert [("unfinished" in each, each["text"] is None) for each in reached[: finished + 2]] == [
            (row >= finished, False) for row in range(finished + 2)
        ]
    quiet.touch()
    done = call(*command, text=text)
    assert done.exit_code == 0 and ("going on with the texts" in done.stderr) is (name != "infill"), done.output
    assert out.read_bytes() == undisturbed


def test_a_pipe_takes_every_line_once(fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PART", 2)
    command, text = ("generate", "--json", *SMALL), "one\n" * 5
    pipe, found = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)

    def read() -> None:
        for _ in range(2):  # whoever reads a pipe again would see what is written again
            with open(pipe) as file:
                found.append(file.read())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert call(*command, "--out", str(pipe), text=text).exit_code == 0
    for _ in range(1000):  # the first reading has ended before the next writer comes
        if found:
            break
        time.sleep(0.01)
    with open(pipe, "w") as file:
        file.write("the end")
    reader.join(10)
    assert found == [call(*command, text=text).stdout, "the end"]


def test_another_run_does_not_go_on_in_the_file(fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options, input, a reward's code, a model's weights."""
    model, out = tmp_path / "model", tmp_path / "out.jsonl"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    reward, quiet = stopping(tmp_path, 5)
    command = ("generate", "--json", "--sampler", LONG, "--out", str(out), "--model", str(model), "--reward", reward)
    text = line(document="one") + line(document="one two")
    assert call(*command, text=text).exit_code == 1
    reached, told = out.read_bytes(), "holds the unfinished texts of another command"
    quiet.touch()
    refused(call(*command, "--seed", "1", text=text), told)
    refused(call(*command, "--max-new-tokens", "2", text=text), told)
    refused(call(*command, text=text.replace("two", "three")), told)
    refused(call("refine", *command[1:], text=line(document="one", text="alpha") * 2), told)
    refused(call(*(each for each in command if each != "--json"), text=text), told)
    out.write_bytes(b"".join(reversed(reached.splitlines(keepends=True))))  # sorted, say: before, rows changed places
    refused(call(*command, text=text), f"line 1 of {out} is not that of row 0 of the input")
    out.write_bytes(reached)
    (model / "model.safetensors").write_bytes(b"other weights")
    refused(call(*command, text=text), told)
    (model / "model.safetensors").write_bytes(b"weights")
    file = tmp_path / "mine.py"
    code = file.read_text()
    file.write_text(code.replace("0.5", "0.6"))
    refused(call(*command, text=text), told)
    assert out.read_bytes() == reached  # a refusal leaves them alone
    file.write_text(code)
    assert call(*command, "--max-rows", "1", text=text).exit_code == 0  # the pace may change


def test_two_runs_at_once_do_not_write_over_each_other(
    fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two commands with one output, begun before there was any, the second to write says so and loses nothing."""
    monkeypatch.setattr(runs, "PART", 1)
    out, text = tmp_path / "out.jsonl", line(document="one") + line(document="one two")
    (tmp_path / "theirs.jsonl").write_text(line(document="one", unfinished="0123456789abcdef"))
    judge = f"    Path({str(out)!r}).write_bytes(Path({str(tmp_path / 'theirs.jsonl')!r}).read_bytes())\n"
    body = "from pathlib import Path\n\ndef f(completions):\n" + judge + "    return [1.0] * len(completions)\n"
    (tmp_path / "mine.py").write_text(body)
    command = ("generate", "--json", "--out", str(out), "--sampler", METHOD, "--reward", f"{tmp_path}/mine.py:f")
    done = call(*command, text=text)
    refused(done, "has the unfinished texts of another command by now, and these go elsewhere: the texts", code=1)
    saved = Path(done.stderr.strip().rpartition("the texts are in ")[2])
    assert entries(saved.read_text())[0]["text"] and out.read_bytes() == (tmp_path / "theirs.jsonl").read_bytes()
    saved.unlink()


def test_a_prompt_of_a_later_part_is_refused_first(
    fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And rows are called by their places in the input, whatever their part."""
    monkeypatch.setattr(runs, "PART", 2)
    file = tmp_path / "mine.py"
    file.write_text("def never(completions, prompts):\n"
                    "    return [float('-inf') if 'two' in prompt else 1.0 for prompt in prompts]\n")  # fmt: skip
    command = ("--sampler", METHOD, "--reward", f"{file}:never")
    refused(call("generate", *command, text="one\n" * 3 + "much too long a prompt for this\n"), "prompt 3 has 7 words")
    texts = line(document="one", text="alpha") * 3 + line(document="one " * 7, text="alpha")
    refused(call("refine", *command, text=texts), "prompt 3 has 7 words")
    done = call("generate", *command, text="one\n" * 3 + "one two\n")
    assert done.exit_code == 0 and "row 3: the reward forbade every text" in done.stderr


def test_a_run_that_broke_off_within_its_drafts_keeps_them(fake: None, tmp_path: Path) -> None:
    """No reward has judged a text yet: before, nothing was written."""
    for method in ("iterref:steps=3,moves=9", "smc:particles=2,steps=4"):
        reward, quiet = stopping(tmp_path, 1)
        quiet.unlink(missing_ok=True)
        command = ("generate", "--json", "--sampler", method, "--reward", reward)
        done = call(*command, text="one\none two\n")
        refused(done, "interrupted; the texts so far are written: go on from these lines with `iterref refine`", code=1)
        found = entries(done.stdout)
        assert [each["document"] for each in found] == ["one", "one two"]
        assert all(each["text"] is not None and each["reward"] is None for each in found)
        quiet.touch()  # and the advice works
        command = ("refine", "--json", "--sampler", "iterref:moves=2", "--reward", reward)
        again = call(*command, text=done.stdout)
        assert again.exit_code == 0 and all(each["reward"] is not None for each in entries(again.stdout)), again.output


def test_the_pool_s_drafts_are_kept_before_the_method_has_any(
    fake: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from iterref.samplers.iterref import IterRef

    def stops(*given: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(IterRef, "init", stops)
    done = call("generate", "--json", "--sampler", METHOD, "--reward", "consensus:n=3", text="one\none two\n")
    assert done.exit_code == 1 and "the texts so far are written" in done.stderr, done.output
    assert all(each["reward"] is None and each["tokens"] for each in entries(done.stdout))


def test_every_command_that_writes_checks_its_outputs() -> None:
    """The control: `files` is what the commands ask."""
    assert writing.expect_writable is files.expect_writable and cli.expect_outputs is writing.expect_outputs
