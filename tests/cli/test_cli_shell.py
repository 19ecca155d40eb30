"""The command line in a shell: a real terminal with a bar and Ctrl-C, exit codes, files, JSON, and config files."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from iterref import cli, loading
from iterref.registry import names
from tests.support.commands import METHOD, call, refused
from tests.support.fakes import FakeModel

ROOT = Path(__file__).parents[2]
SMALL = ("--sampler", METHOD, "--reward", "length:2")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small exact model in place of the bundled one."""
    monkeypatch.setattr(loading, "load", lambda name=None, **place: FakeModel())


def commands(group: click.Command = cli.main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command by its words, those of groups included."""
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            if not command.hidden:
                yield from commands(command, (*path, name))
    else:
        yield path


def found(path: tuple[str, ...]) -> click.Command:
    command: Any = cli.main
    for name in path:
        command = command.commands[name]
    return command


COMMANDS = sorted(commands())

# --- a terminal -------------------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background hands down that it is ignored
os.open(os.ttyname(2), os.O_RDWR)  # the first terminal that a session opens is the one whose Ctrl-C it gets
from iterref import loading
from tests.support.fakes import FakeModel
loading.load = lambda name=None, **place: FakeModel()
from iterref.cli import main
main(sys.argv[1:])
"""
SLOW = """
import time

def slow(completions):
    time.sleep(0.01)
    return [0.5 * len(text) for text in completions]
"""


def until(master: int, sign: str, seen: str = "") -> str:
    """What a terminal shows up to a sign, or to its end."""
    while sign not in seen:
        assert select.select([master], [], [], 120)[0], f"nothing more was shown after {seen!r}"
        try:
            got = os.read(master, 4096)
        except OSError:  # the last process that wrote to it is gone
            got = b""
        if not got:
            break
        seen += got.decode()
    return seen


@pytest.mark.parametrize(
    ("closed", "told"),
    [(">&-", "standard output cannot be written (Bad file descriptor): write to a file by --out"),
     ("<&-", "the input is empty: give one prompt a line")],
)  # fmt: skip
def test_a_stream_that_is_closed_is_one_sentence(closed: str, told: str) -> None:
    main = "from iterref.cli import main; main()"
    command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", main, "generate", *SMALL]
    done = subprocess.run(command, cwd=ROOT, input="one\n", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"Error: {told}\n")


def test_a_terminal_shows_a_bar_and_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SLOW)
    (tmp_path / "prompts.txt").write_text("one\none two\n")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    method = "iterref:steps=2,moves=3000,tries=2,decisions=1,early=0"
    arguments = ["generate", str(tmp_path / "prompts.txt"), "--json", "--sampler", method, "--reward", f"{file}:slow"]
    running = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], cwd=ROOT, stdin=slave, stdout=subprocess.PIPE, stderr=slave,
        start_new_session=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    os.close(slave)
    seen = until(master, ", reward ")
    assert "iterref:   0%" in seen and "/3002 [" in seen and "/3002 NFE, reward " in seen, seen
    os.write(master, b"\x03")  # Ctrl-C on the keyboard
    assert running.stdout is not None
    with running.stdout as out:
        written = out.read()
    seen = until(master, "never", seen)
    os.close(master)
    assert running.wait() == 1
    assert "Traceback" not in seen and "interrupted; the texts so far are written: " in seen
    entries = [json.loads(line) for line in written.splitlines()]
    assert [entry["document"] for entry in entries] == ["one", "one two"]
    assert all(entry["reward"] == 0.5 * len(entry["text"]) for entry in entries)


# --- exit codes -------------------------------------------------------------------------------------------------------


def test_the_commands_are_those_that_are_promised() -> None:
    named = {"demo", "generate", "refine", "infill", "compare", "page", "serve", "train", "check", "ls"}
    assert {path[0] for path in COMMANDS} == named


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_is_0_and_wrong_use_is_2(path: tuple[str, ...]) -> None:
    shown = call(*path, "--help")
    assert shown.exit_code == 0 and shown.stdout.startswith("Usage:")
    refused(call(*path, "--nonsense", text="one"), "No such option")


FAILING = {
    ("demo",): ("iterref.demo", "run_demo", []),
    ("train",): ("iterref.training", "train", [__file__, "--out", "model"]),
    ("check",): ("iterref.check", "check_model", ["tiny-news", "pairs.jsonl"]),
    ("compare",): ("iterref.comparison", "compare", ["prompts.txt", "--sampler", "smc", "--budget", "4"]),
}


@pytest.mark.parametrize("path", FAILING, ids=" ".join)
def test_a_failure_on_the_way_is_1_and_ctrl_c_says_how_to_go_on(
    fake: None, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home, name, arguments = FAILING[path]
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text('{"document": "one", "summary": "alpha"}\n')
    Path("prompts.txt").write_text("one\n")

    def ends(error: BaseException) -> None:
        def raised(*given: Any, **options: Any) -> None:
            raise error

        monkeypatch.setattr(import_module(home), name, raised)

    ends(RuntimeError("the device is gone"))
    refused(call(*path, *arguments), "Error: the device is gone", code=1)
    ends(KeyboardInterrupt())
    again = "start again" if path in (("demo",), ("compare",)) else "rerun the command to resume"
    refused(call(*path, *arguments), "Error: interrupted" if path != ("check",) else "Aborted!", code=1)
    assert again in call(*path, *arguments).stderr or path == ("check",)


# --- files, standard input and output ---------------------------------------------------------------------------------


def test_texts_go_to_a_file_which_a_refusal_leaves_alone(fake: None, tmp_path: Path) -> None:
    out = tmp_path / "texts.txt"
    done = call("generate", *SMALL, "--out", str(out), text="one\none two\n")
    assert done.exit_code == 0 and done.stdout == "" and done.stderr == ""
    before = out.read_text()
    assert before == call("generate", *SMALL, text="one\none two\n").stdout and len(before.splitlines()) == 2
    refused(call("generate", *SMALL, "--alpha", "0", "--out", str(out), text="one\n"), "alpha must be positive")
    assert out.read_text() == before
    refused(call("generate", *SMALL, "--out", str(tmp_path), text="one\n"), "it is a folder): name a file in it")


@pytest.mark.parametrize("name", ["generate", "refine", "infill"])
def test_a_run_is_written_as_a_page(fake: None, name: str, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    text = "\n".join(json.dumps({"document": "one", "text": "[alpha]"}) for _ in range(10)).replace(
        "[alpha]", "[alpha]" if name == "infill" else "alpha"
    )
    done = call(name, *SMALL, "--html", str(page), text=text)
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 10, done.output
    assert done.stderr == f"written: {page}\n"
    written = page.read_text(encoding="utf-8")
    assert written.startswith("<!DOCTYPE html>") and 'type="range"' in written  # the slider of the watched texts


def test_a_number_of_texts_without_prompts(fake: None, tmp_path: Path) -> None:
    done = call("generate", *SMALL, "--count", "3")
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 3, done.output
    (tmp_path / "prompts.txt").write_text("one\n")
    refused(call("generate", *SMALL, "--count", "3", str(tmp_path / "prompts.txt")), "leave out FILE, or --count")


def test_lines_are_those_of_files(fake: None) -> None:
    """Blank lines among JSON lines, a mark of the byte order, and signs that only Python takes for line ends."""
    entry = json.dumps({"document": "one\u2028two"}, ensure_ascii=False)
    done = call("generate", *SMALL, "--json", text=f"\ufeff\n{entry}\n\n{entry}\n")
    assert done.exit_code == 0, done.output
    documents = [json.loads(line)["document"] for line in done.stdout.split("\n") if line]
    assert documents == ["one\u2028two"] * 2
    plain = call("generate", *SMALL, text="\ufeffone\u2028two\nthree\n")
    assert plain.exit_code == 0 and len(plain.stdout.splitlines()) == 2
    refused(call("generate", *SMALL, text=f"{entry}\n\n[]\n"), "line 3 is a JSON list and no object")
    refused(call("generate", *SMALL, text="\n  \n"), "the input is empty")
    result = CliRunner().invoke(cli.main, ["generate", *SMALL], input=b"one\n\xff\xfe\n")
    refused(result, "the input is no UTF-8 text: save it as UTF-8")


@pytest.mark.parametrize("charset", ["latin-1", "ascii"])
def test_output_is_utf_8_under_any_locale(fake: None, charset: str) -> None:
    """What one command writes, the next one reads; a character that the locale lacks lost the texts of the run."""
    entry = json.dumps({"document": "one", "note": "\u201ccaf\u00e9\u201d"}, ensure_ascii=False)
    shell = CliRunner(charset=charset)
    done = shell.invoke(cli.main, ["generate", *SMALL, "--json"], input=f"{entry}\n".encode())
    assert done.exit_code == 0 and json.loads(done.stdout_bytes.decode())["note"] == "\u201ccaf\u00e9\u201d"
    again = shell.invoke(cli.main, ["refine", *SMALL, "--json"], input=done.stdout_bytes)
    assert again.exit_code == 0 and json.loads(again.stdout_bytes.decode())["note"] == "\u201ccaf\u00e9\u201d"


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_lists_are_json_too() -> None:
    told = json.loads(call("ls", "--json").stdout)
    assert set(told) == {"samplers", "models", "rewards"} and set(told["samplers"]) == set(names())
    assert told["samplers"]["iterref"]["options"]["tries"] == 2 and "tiny-news" in told["models"]
    assert told["rewards"]["classifier"]["required"] == ["model"] and told["rewards"]["sentiment"]["bundled"]
    assert set(json.loads(call("ls", "rewards", "--json").stdout)) == {"rewards"}


def test_checks_are_json_too() -> None:
    refused(call("check", "tiny-news"), "tiny-news summarises documents: give FILE, JSON lines with `document`")
    done = call("check", "tiny-books", "--length", "8", "--json")
    assert done.exit_code == 0, done.output
    findings = json.loads(done.stdout)
    assert findings and all(set(finding) == {"name", "passed", "sentence"} for finding in findings)


def test_a_demo_in_a_pipe_is_json_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("demo", "--json", "-", "--budget", "16")
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["stories"]) == {"a rule", "a tone", "a puzzle"}
    assert "auto is significantly ahead in" in done.stderr and "1. A rule: " in done.stderr
    assert (tmp_path / "iterref-demo.html").read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "iterref-demo.png").read_bytes().startswith(b"\x89PNG")
    refused(call("demo", "--budget", "8"), "a budget of 8 NFE is too small for the demo")


# --- config files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in COMMANDS if path != ("ls",)], ids=" ".join)
def test_every_command_takes_all_its_options_from_a_file(path: tuple[str, ...], tmp_path: Path) -> None:
    command, file = found(path), tmp_path / "run.toml"
    config = next(option for option in command.params if option.name == "config")
    options = [option for option in command.params if isinstance(option, click.Option) and option is not config]

    def written(option: click.Option) -> str:
        return "true" if option.is_flag else "[1, 1]" if option.multiple else "1"

    file.write_text("".join(f"{option.opts[0][2:]} = {written(option)}\n" for option in options))
    context = click.Context(command)
    assert config.callback is not None
    config.callback(context, config, file)
    assert set(context.default_map or {}) == {option.name for option in options}


def test_options_that_may_be_given_again_are_lists_or_one_value(fake: None, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    base = 'budget = 4\ncount = 2\nreward = "length:2"\njson = true\n'
    file.write_text(base + 'sampler = ["ancestral:steps=1", "ancestral:steps=2"]\n')
    done = call("compare", "--config", str(file))
    assert done.exit_code == 0 and len(json.loads(done.stdout)["entries"]) == 2, done.output
    file.write_text(base + 'sampler = "ancestral"\n')
    refused(call("compare", "--config", str(file)), "at least two samplers")
    file.write_text(base + 'sampler = ["ancestral", true]\n')
    refused(call("compare", "--config", str(file)), "run.toml: sampler is a string, got True")


def test_a_file_gives_required_options_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = import_module("iterref.training")
    asked: list[Any] = []
    monkeypatch.setattr(training, "train", lambda config, resume: asked.append((config, resume)) or Path(config.out))
    (tmp_path / "pairs.jsonl").write_text('{"document": "a b", "summary": "a"}\n')
    file = tmp_path / "run.toml"
    file.write_text('out = "model"\nsteps = 50\ncooldown = 10\nmatrix_rate = 0.1\nresume = false\nnormalise = false\n')
    done = call("train", str(tmp_path / "pairs.jsonl"), "--config", str(file), "--steps", "60")
    assert done.exit_code == 0, done.output
    [(config, resume)] = asked
    assert (config.out, config.steps, config.matrix_rate, config.normalise, resume) == ("model", 60, 0.1, False, False)


# --- options of before ------------------------------------------------------------------------------------------------


def test_an_option_of_before_still_works_and_says_its_name(fake: None, tmp_path: Path) -> None:
    now = call("generate", *SMALL, text="one\n")
    before = call("generate", *[part.replace("--sampler", "--method") for part in SMALL], text="one\n")
    assert before.exit_code == 0 and before.stdout == now.stdout
    assert before.stderr == "the option --method is called sampler now: use that\n" and now.stderr == ""
    assert call("generate", "--method=nonsense", text="one\n").exit_code == 2
    (tmp_path / "run.toml").write_text('method = "ancestral:steps=2"\n')
    told = call("generate", "--model", "tiny-books", "--config", str(tmp_path / "run.toml"), text="one\n")
    assert told.exit_code == 0 and told.stderr == "the key method is called sampler now: use that\n"
