"""The command line: outputs, exit codes, one-sentence refusals, and that light commands stay light."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path

import pytest

from iterref import __version__, cli, loading
from iterref.cli import options as shared
from iterref.cli import reading
from iterref.drafts import OwnDrafts
from iterref.generation import generate
from iterref.models import device_map
from iterref.registry import entries, get
from tests.support.commands import METHOD, call, refused
from tests.support.fakes import FakeModel


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small exact model in place of the bundled one."""
    monkeypatch.setattr(loading, "load", lambda name=None, **place: FakeModel())


LIGHT = """
import sys, time
from iterref.cli import main
for line in sys.argv[2:]:
    begun = time.process_time()
    main(line.split(), standalone_mode=False)
    assert time.process_time() - begun < 0.5, line
    assert not set(sys.argv[1].split()) & set(sys.modules), line
assert time.process_time() < 0.7, time.process_time()  # about 0.2 s alone
"""


def test_help_and_lists_do_not_import_torch_and_answer_at_once() -> None:
    lines = ["--help", "--version", *(f"{name} --help" for name in cli.main.commands), "ls", "ls --json"]
    for heavy in ("torch numpy transformers matplotlib tomllib rapidfuzz", "torch click"):  # the second is the control
        command = [sys.executable, "-c", LIGHT, heavy, *lines]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == ("click" not in heavy), done.stderr
        assert done.returncode == 0 or "AssertionError: --help" in done.stderr
        lines = lines[:1]


def test_version() -> None:
    assert __version__ in call("--version").stdout


def test_a_warning_is_a_sentence_without_a_line_of_source() -> None:
    line = ["generate", "--sampler", "iterref:kernel=shared,tries=2", "--budget", "4", "--reward", "length:words=4"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = call(*line, text="A fire destroyed a mill.\n")
    assert done.exit_code == 0, done.stderr
    told = "Warning: 'iterref:kernel=shared,tries=2' is written 'iterref:tries=2' now: write that\n"
    assert told in done.stderr and ".py" not in done.stderr and "Warning" not in done.stdout


def test_ls_names_every_method_with_its_defaults() -> None:
    out = call("ls").stdout
    assert "lossy=True, step=\\n, tag=None" in " ".join(out.split())  # a line end is written as one
    for name, entry in entries("samplers").items():
        # what is read from the source text is what the class really has
        assert list(entry.options.items()) == [(f.name, f.default) for f in fields(get(name))]
        assert f"  {name}\n" in out
    assert "tries=2" in " ".join(out.split()) and "tiny-news" in out and "consensus" in out


def test_ways_of_spreading_are_those_of_the_library() -> None:
    assert shared.WAYS == (*device_map.WAYS, device_map.RANKS)
    options = dict.fromkeys(shared.NAMES) | {"max_memory": "0=1GiB, cpu=2GiB"}
    assert shared.place_of(options)["max_memory"] == {0: "1GiB", "cpu": "2GiB"} and not options


@pytest.mark.parametrize(("written", "said"), [("compair", "did you mean 'compare'?"), ("fly", "no command 'fly'. It")])
def test_a_mistyped_command_is_told_what_is_meant(written: str, said: str) -> None:
    told = call(written)
    assert told.exit_code == 2 and said in told.stderr and "bench," not in told.stderr
    assert "generate, infill, ls, page, refine" in told.stderr


def test_defaults_are_those_of_generate() -> None:
    defaults = {name: p.default for name, p in inspect.signature(generate).parameters.items()}
    options = {p.name: p.default for p in cli.generate.params}
    for name in ("sampler", "reward", "seed", "temperature"):
        assert options[name] == defaults[name]
    assert options["alpha"] == defaults["alpha"]
    assert OwnDrafts() == reading.read_reward("consensus", {})


@pytest.mark.parametrize("command", [("generate",), ("compare", "--sampler", METHOD, "--budget", "8")])
def test_a_second_reward_is_refused_and_not_taken_for_the_first(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one two\n", encoding="utf-8")
    told = call(command[0], str(tmp_path / "texts.txt"), *command[1:], "--reward", "length:2", "--reward", "consensus")
    assert told.exit_code == 2 and "give one; FILE.py:NAME may be a function that adds up several" in told.stderr


def test_generate_writes_one_text_a_line(fake: None, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\none two\none two three\n", encoding="utf-8")
    from_file = call("generate", str(file), "--sampler", METHOD, "--reward", "length:2")
    from_stdin = call("generate", "-", "--sampler", METHOD, "--reward", "length:2", text=file.read_text())
    assert from_file.exit_code == 0, from_file.output
    assert len(from_file.stdout.splitlines()) == 3
    assert from_file.stdout == from_stdin.stdout
    assert from_file.stderr == ""  # no progress bar away from a terminal
    other = call("generate", str(file), "--sampler", METHOD, "--reward", "length:2", "--seed", "1")
    assert other.stdout != from_file.stdout


def test_generate_writes_json_with_text_reward_and_cost(fake: None) -> None:
    lines = [{"document": "one", "reference": "alpha beta"}, {"document": "one two", "reference": "beta"}]
    text = "\n".join(map(json.dumps, lines))
    done = call("generate", "--json", "--sampler", METHOD, "--reward", "rouge", "--budget", "6,40", text=text)
    assert done.exit_code == 0, done.output
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["document"] for entry in entries] == ["one", "one two"]
    for entry in entries:
        assert set(entry) == {"document", "text", "reference", "reward", "cost", "tokens"}
        assert 0 <= entry["reward"] <= 1 and 0 < entry["cost"]["nfe"] <= 6


def test_generate_with_consensus_counts_the_pool(fake: None) -> None:
    done = call("generate", "--json", "--sampler", METHOD, "--reward", "consensus:n=3", text="one two\n")
    assert json.loads(done.stdout)["cost"]["nfe"] > 3 * 2


def test_generate_takes_networks_as_rewards(fake: None) -> None:
    for reward in ("classifier:sentiment:negative", "perplexity:prose"):
        done = call("generate", "--sampler", METHOD, "--reward", reward, text="one\n")
        assert done.exit_code == 0 and len(done.stdout.splitlines()) == 1, done.output


def test_generate_takes_a_function_of_the_users(fake: None, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def beta(completions):\n    return [text.count('beta') for text in completions]\n")
    done = call("generate", "--json", "--sampler", METHOD, "--reward", f"{file}:beta", text="one\n")
    entry = json.loads(done.stdout)
    assert entry["reward"] == entry["text"].count("beta")
    refused(call("generate", "--reward", f"{file}:gamma", text="one"), "has no function 'gamma'")
    refused(call("generate", "--reward", f"{tmp_path}/none.py:f", text="one"), "there is no file")
    file.write_text("1 / 0\n")
    refused(call("generate", "--reward", f"{file}:beta", text="one"), "cannot be run (ZeroDivisionError")


@pytest.mark.parametrize(
    ("arguments", "text", "sentence"),
    [
        ([], "", "the input is empty"),
        ([], "one\n\ntwo\n", "line 2 is empty"),
        ([], '{"document": "one"}\n{oops\n', "line 2 is no JSON"),
        ([], '{"text": "one"}\n', "line 1 has no text in a field `document`"),
        ([], "one\nmuch too long for this model of six words\n", "prompt 1 has 9 words"),
        (["--sampler", "iteref"], "one", "did you mean 'iterref'"),
        (["--sampler", "iterref:tris=2"], "one", "did you mean 'tries'"),
        (["--reward", "consensu"], "one", "did you mean 'consensus'"),
        (["--reward", "consensus:n=few"], "one", "consensus:n needs a whole number, got 'few'"),
        (["--reward", "consensus:n=0"], "one", "a pool needs a draft"),
        (["--reward", "length:0"], "one", "give at least 1"),
        (["--reward", "rouge"], "one", "needs a column `reference`: give JSON input"),
        (["--alpha", "0"], "one", "alpha must be positive"),
        (["--temperature", "-1"], "one", "temperature must be positive"),
        (["--budget", "lots"], "one", "needs a number, got 'lots'"),
        (["--budget", "2"], "one", "leaves no room after the 128 NFE of the drafts"),
        (["--budget", "0"], "one", "a budget needs a positive NFE"),
        (["--nonsense"], "one", "No such option"),
        (["--seed", "-1"], "one", "not in the range"),
        (["no-such-file"], "", "No such file"),
    ],
)
def test_wrong_use_exits_with_2_and_a_sentence(fake: None, arguments: list[str], text: str, sentence: str) -> None:
    result = call("generate", *arguments, text=text)
    refused(result, sentence)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--reward", "classifier:sentiment"], "the classifier has 2 labels, choose one of"),
        (["--reward", "classifier:sentiment:happy"], "there is no label 'happy'"),
        (["--reward", "perplexity:no/such"], "or take a bundled one"),
        (["--model", ""], "the name of a checkpoint is empty: give a folder or a hub name"),
        (["--device", "nowhere"], "there is no device 'nowhere'"),
        (["--device", "cpu", "--device-map", "auto"], "device='cpu' is one device and device_map spreads"),
        (["--max-memory", "cpu=1GiB"], "max_memory and offload_folder belong to a device map"),
        (["--dtype", "int8"], "unknown precision 'int8'"),
        (["--length", "9"], "a summariser has its own length"),
    ],
)
def test_networks_that_are_not_there_are_wrong_use(arguments: list[str], sentence: str) -> None:
    done = call("generate", *arguments, text="one\n")
    assert done.exit_code == 2 and sentence in done.output


def test_an_unknown_model_is_wrong_use() -> None:
    refused(call("generate", "--model", "tiny-olds", text="one"), "'tiny-olds' is no folder")


def test_a_reward_that_fails_exits_with_1_and_loses_nothing(fake: None, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    body = "calls = []\n\ndef late(completions):\n    calls.append(1)\n    assert len(calls) < 5, 'tired'\n"
    file.write_text(body + "    return [0.5 * len(text) for text in completions]\n")
    method = "iterref:steps=2,moves=30,tries=2,decisions=1,early=0"
    result = call("generate", "--sampler", method, "--reward", f"{file}:late", text="one\none two\n")
    refused(result, "the reward raised AssertionError (tired)", code=1)
    assert len(result.stdout.splitlines()) == 2
    file.write_text("def late(completions):\n    raise OSError('at once')\n")
    result = call("generate", "--sampler", method, "--reward", f"{file}:late", text="one\none two\n")
    refused(result, "at once", code=1)
    assert len(result.stdout.splitlines()) == 2  # the drafts, which no reward has judged


def test_rows_that_are_stuck_are_named(fake: None, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def never(completions):\n    return [float('-inf')] * len(completions)\n")
    result = call("generate", "--json", "--sampler", METHOD, "--reward", f"{file}:never", text="one\n")
    assert result.exit_code == 0 and "row 0: some step found only forbidden" in result.stderr
    assert json.loads(result.stdout)["reward"] is None


def test_train_hands_its_options_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from iterref import training

    seen: list[tuple[training.TrainConfig, bool]] = []

    def train(config: training.TrainConfig, resume: bool = True) -> Path:
        seen.append((config, resume))
        return Path(config.out)

    monkeypatch.setattr(training, "train", train)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"document": "a b", "summary": "a"}\n')
    out = str(tmp_path / "model")
    options = ["--steps", "50", "--cooldown", "10", "--rate", "0.1", "--no-resume"]
    result = call("train", str(pairs), "--out", out, *options)
    assert result.exit_code == 0, result.output
    expected = training.TrainConfig(train=(str(pairs),), out=out, steps=50, cooldown=10, rate=0.1)
    assert seen == [(expected, False)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "x"], "Missing argument"),
        (["none.jsonl", "--out", "x"], "does not exist"),
        ([__file__], "Missing option '--out'"),
        ([__file__, "--out", "x", "--optimizer", "sgd"], "unknown optimizer 'sgd'"),
        ([__file__, "--out", "x", "--steps", "ten"], "not a valid integer"),
    ],
)
def test_train_refuses_wrong_use(arguments: list[str], sentence: str) -> None:
    refused(call("train", *arguments), sentence)


def test_check_tells_whether_a_model_keeps_the_conventions() -> None:
    pairs = [("a lorry overturned on the coast road .", "a lorry overturned"), ("police arrested two men .", "two men")]
    told = set()
    for prompt, text in (("document", "summary"), ("prompt", "text"), ("prompt", "completion")):
        lines = [json.dumps({prompt: document, text: summary}) for document, summary in pairs]
        result = call("check", "tiny-news", "-", text="\n".join(lines))
        assert result.exit_code == 0 and "carry" in result.stdout, result.output
        told.add(result.stdout)
    assert len(told) == 1
    refused(call("check", "tiny-news", "-", text=lines[0]), "two texts or more")
    refused(call("check", "no/such-folder"), "is no folder")
