"""The editing commands, config files and Ctrl-C: outputs, what stays, exit codes and one-sentence refusals."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from iterref import OwnDrafts, cli, editing, loading
from iterref.result import Interrupted
from iterref.samplers.strings import sampler_from_string
from tests.support.commands import call, refused
from tests.support.fakes import FakeModel

LORRY = (
    "A lorry carrying nine tonnes of fresh oranges overturned on the coast road near Penmoor early on Friday, blocking "
    "traffic in both directions."
)
METHOD = "iterref:moves=3,tries=3"
SMALL = ("--sampler", METHOD, "--reward", "length:2")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small exact model in place of the bundled one."""
    monkeypatch.setattr(loading, "load", lambda name, **place: FakeModel())


def lines(*texts: str) -> str:
    """Texts as JSON lines, prompted "one", "one two", ..."""
    prompts = ("one", "one two", "one two three")
    return "\n".join(json.dumps({"document": prompts[row], "text": text}) for row, text in enumerate(texts))


@pytest.mark.parametrize("name", ["refine", "infill"])
def test_defaults_are_those_of_editing(name: str) -> None:
    signatures = [inspect.signature(getattr(editing, name)), inspect.signature(editing.edit)]
    defaults = {key: p.default for each in signatures for key, p in each.parameters.items()}
    options = {p.name: p.default for p in cli.main.commands[name].params}
    for key in ("reward", "alpha", "seed", "temperature"):
        assert options[key] == defaults[key]
    assert name == "infill" or options["strength"] == defaults["strength"]


def test_refine_writes_one_text_a_line_in_order(fake: None, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(lines("alpha gamma", "gamma alpha delta", "beta"), encoding="utf-8")
    from_file = call("refine", str(file), *SMALL)
    from_stdin = call("refine", *SMALL, text=file.read_text())
    assert from_file.exit_code == 0, from_file.output
    assert from_file.stdout == from_stdin.stdout and from_file.stderr == ""
    texts = ["alpha gamma", "gamma alpha delta", "beta"]
    options = {"prompts": ["one", "one two", "one two three"], "reward": lambda completions: [
        1 - abs(len(text.split()) - 2) / 2 for text in completions
    ]}  # fmt: skip
    assert from_file.stdout.splitlines() == editing.refine(FakeModel(), texts, sampler=METHOD, **options).texts
    harder = call("refine", str(file), *SMALL, "--strength", "1", "--seed", "3", "--alpha", "9")
    assert harder.exit_code == 0 and harder.stdout != from_file.stdout


def test_refined_json_lines_can_be_refined_again(fake: None) -> None:
    first = call("refine", "--json", *SMALL, "--budget", "4,40", text=lines("alpha", "gamma alpha delta"))
    assert first.exit_code == 0, first.output
    entries = [json.loads(line) for line in first.stdout.splitlines()]
    for prompt, entry in zip(("one", "one two"), entries, strict=True):
        assert set(entry) == {"document", "text", "reward", "cost", "tokens"} and entry["document"] == prompt
        assert entry["reward"] == 1 - abs(len(entry["text"].split()) - 2) / 2
        assert 0 < entry["cost"]["nfe"] <= 4 and 1 < entry["cost"]["reward_calls"] <= 40
    again = call("refine", "--json", *SMALL, text=first.stdout)
    found = [json.loads(line)["reward"] for line in again.stdout.splitlines()]
    assert all(new >= old for new, entry in zip(found, entries, strict=True) for old in [entry["reward"]])


def test_the_cost_counts_the_pool_and_the_reward_of_the_first_texts(fake: None) -> None:
    done = call("refine", "--json", "--sampler", METHOD, "--reward", "consensus:n=3", text=lines("alpha gamma"))
    chain = editing.refine(
        FakeModel(), ["alpha gamma"], prompts=["one"], reward=OwnDrafts(n=3), sampler=sampler_from_string(METHOD)
    )  # fmt: skip
    assert chain.result is not None and chain.history[0].cost.nfe >= 3
    expected = chain.history[0].cost + chain.result.cost
    assert json.loads(done.stdout)["cost"] == vars(expected)


def test_texts_without_prompts_are_plain_lines_for_models_that_have_none() -> None:
    options = ("--model", "tiny-books", "--reward", "length:12", "--budget", "12", "--length", "32")
    done = call("refine", *options, text="once upon a time there was a king\nthe film was long .\n")
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 2, done.output
    as_json = call("refine", "--json", *options, text="the film was long .\n")
    assert set(json.loads(as_json.stdout)) == {"text", "reward", "cost", "tokens"}


def test_infill_keeps_what_is_locked() -> None:
    text = json.dumps({"document": LORRY, "text": "a lorry [overturned] on the coast road ."})
    options = ("--reward", "length:8", "--budget", "4", "--temperature", "0.5")
    done = call("infill", *options, text=text)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("a lorry") and done.stdout.endswith(" on the coast road .\n")


@pytest.mark.parametrize("more", [[], ["--tokens", "1"], ["--tokens", "1-1"], ["--strength", "1"]])
def test_infill_changes_the_regions_alone(fake: None, more: list[str]) -> None:
    done = call("infill", *SMALL, *more, text=lines("alpha [gamma] beta", "[gamma] alpha [delta]"))
    assert done.exit_code == 0, done.output
    first, second = (line.split() for line in done.stdout.splitlines())
    assert len(first) == len(second) == 3 and first[0] == "alpha" and first[2] == "beta" and second[1] == "alpha"


def test_infill_inserts_in_an_empty_region(fake: None) -> None:
    done = call("infill", *SMALL, "--tokens", "2", text=lines("alpha []"))
    assert done.exit_code == 0 and done.stdout.startswith("alpha ") and len(done.stdout.split()) == 3, done.output


@pytest.mark.parametrize("words", [2, 3])
def test_a_region_grows_on_the_command_line(fake: None, words: int) -> None:
    done = call("infill", *SMALL[:2], "--reward", f"length:{words}", "--tokens", "1-2", text=lines("alpha []"))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("alpha ") and len(done.stdout.split()) == words


@pytest.mark.parametrize(
    ("command", "arguments", "text", "sentence"),
    [
        ("refine", [], "", "the input is empty: give one text a line"),
        ("refine", [], "a king .\n", "tiny-news summarises documents: give JSON lines with `text` and `document`"),
        ("refine", [], '{"document": "one"}', "line 1 has no text in a field `text`"),
        ("refine", [], '{"text": "alpha"}\n[]', "line 2 is a JSON list and no object"),
        ("refine", [], lines("alpha") + '\n{"text": "beta"}', "line 2 has no text in a field `document`"),
        ("refine", [], '{"text": "beta"}\n' + lines("alpha"), "line 1 has no text in a field `document`"),
        ("refine", ["--strength", "0"], lines("alpha"), "strength must lie in (0, 1]"),
        ("refine", ["--sampler", "ancestral"], lines("alpha"), "ancestral"),
        ("refine", ["--reward", "consensu"], lines("alpha"), "did you mean 'consensus'"),
        ("refine", ["--alpha", "0"], lines("alpha"), "alpha must be positive"),
        ("refine", ["--budget", "lots"], lines("alpha"), "needs a number, got 'lots'"),
        ("refine", ["--budget", "2"], lines("alpha"), "leaves no room after the 128 NFE of the drafts"),
        ("infill", [], lines("alpha"), "text 0 marks nothing"),
        ("infill", [], lines("alpha [beta]", "alpha [beta"), "text 1 leaves a region open"),
        ("infill", [], lines("alpha []"), "text 0 has an empty region: say how many tokens it is to have, by --to"),
        ("infill", ["--tokens", "9"], lines("alpha [beta]"), "the canvas holds 3"),
        ("infill", ["--tokens", "1", "--strength", "1"], lines("alpha [beta]"), "leave out --strength, or --tokens"),
        ("infill", ["--tokens", "0"], lines("alpha [beta]"), "no number of tokens"),
        ("infill", ["--tokens", "3-2"], lines("alpha [beta]"), "no number of tokens"),
        ("infill", ["--tokens", "a-b"], lines("alpha [beta]"), "no number of tokens"),
        ("infill", ["--tokens", "1-2", "--strength", "1"], lines("alpha [beta]"), "leave out --strength, or --tokens"),
        ("infill", ["no-such-file"], "", "No such file"),
    ],
)  # fmt: skip
def test_wrong_use_exits_with_2_and_a_sentence(
    fake: None, command: str, arguments: list[str], text: str, sentence: str
) -> None:
    short = [] if "--reward" in arguments or sentence.startswith("leaves no room") else ["--reward", "length:2"]
    result = call(command, *arguments, *short, text=text)
    refused(result, sentence)
    assert result.stdout == ""


def test_rows_that_are_stuck_are_named(fake: None, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def never(completions):\n    return [float('-inf')] * len(completions)\n")
    result = call("refine", "--json", "--sampler", METHOD, "--reward", f"{file}:never", text=lines("alpha gamma"))
    assert result.exit_code == 0 and "row 0: some step found only forbidden" in result.stderr
    entry = json.loads(result.stdout)
    assert entry["reward"] is None and entry["text"] == "alpha gamma"
    file.write_text(
        "def never(completions):\n    return [1.0 if t == 'beta gamma' else float('-inf') for t in completions]\n"
    )
    result = call("infill", "--json", "--sampler", METHOD, "--reward", f"{file}:never", text=lines("[beta gamma]"))
    entry = json.loads(result.stdout)
    assert "row 0: some step" in result.stderr
    assert entry["reward"] == 1 and entry["text"] == "beta gamma"  # a row without any allowed text keeps its own


def test_a_config_file_gives_the_options_and_the_command_line_wins(fake: None, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f'sampler = "{METHOD}"\nreward = "length:2"\nbudget = 4\nseed = 3\nalpha = 1\njson = true\n')
    written = (*SMALL, "--budget", "4", "--alpha", "1", "--json")
    asked = lines("alpha", "gamma alpha delta")
    for command, text in (("generate", asked), ("refine", asked), ("infill", asked.replace("alpha", "[alpha]"))):
        from_file = call(command, "--config", str(file), text=text)
        assert from_file.exit_code == 0, from_file.output
        assert from_file.stdout == call(command, *written, "--seed", "3", text=text).stdout
        expected = call(command, *written, "--seed", "4", "--alpha", "0.1", text=text).stdout
        winning = ["--seed", "4", "--alpha", "0.1"]
        assert expected != from_file.stdout
        for arguments in ([*winning, "--config", str(file)], ["--config", str(file), *winning]):
            assert call(command, *arguments, text=text).stdout == expected


@pytest.mark.parametrize("name", ["generate", "refine", "infill"])
def test_a_config_file_takes_every_option_but_itself(name: str, tmp_path: Path) -> None:
    command = cli.main.commands[name]
    config = next(option for option in command.params if option.name == "config")
    options = [option for option in command.params if isinstance(option, click.Option) and option is not config]
    file = tmp_path / "run.toml"
    for key in ("--max-rows", "--max_rows"):
        written = {option.opts[0]: "true" if option.is_flag else "1" for option in options}
        written[key] = written.pop("--max-rows")
        file.write_text("\n".join(f"{flag[2:]} = {value}" for flag, value in written.items()))
        context = click.Context(command)
        assert config.callback is not None
        config.callback(context, config, file)
        assert set(context.default_map or {}) == {option.name for option in options}


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("buget = 4", "run.toml: unknown key 'buget': did you mean 'budget'?"),
        ('config = "other.toml"', "unknown key 'config'"),
        ('file = "x"', "unknown key 'file'"),
        ("as_json = true", "unknown key 'as-json': did you mean 'json'?"),
        ('seed = "one"', "run.toml: seed is a whole number, got 'one'"),
        ("seed = 1.5", "seed is a whole number, got 1.5"),
        ("seed = true", "seed is a whole number, got True"),
        ("seed = -1", "not in the range"),
        ('alpha = "small"', "alpha is a number, got 'small'"),
        ("json = 1", "json is true or false, got 1"),
        ("budget = [64, 1024]", "budget is a string, got [64, 1024]"),
        ("reward = true", "reward is a string, got True"),
        ('reward = "consensu"', "did you mean 'consensus'"),
        ("[model]\nname = 1", "model is a string"),
        ("budget 4", "run.toml is no TOML"),
    ],
)
def test_a_wrong_config_file_exits_with_2_and_a_sentence(
    fake: None, written: str, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(written + "\n")
    for command, text in (("generate", "one"), ("refine", lines("alpha")), ("infill", lines("[alpha]"))):
        result = call(command, "--config", str(file), text=text)
        refused(result, sentence)
        assert result.stdout == ""


def test_config_files_that_cannot_be_read_are_wrong_use(tmp_path: Path) -> None:
    refused(call("refine", "--config", "none.toml", text=lines("alpha")), "'none.toml' does not exist")
    file = tmp_path / "run.toml"
    file.write_bytes(b"\xff\xfe")
    refused(call("refine", "--config", str(file), text=lines("alpha")), "is no TOML")


STOPPING = """
calls = []

def stopping(completions):
    calls.append(1)
    if len(calls) == {call}:
        raise {error}
    return [0.5 * len(text) for text in completions]
"""
GENERATE = "iterref:steps=2,moves=30,tries=2,decisions=1,early=0"
RUNS = {
    "generate": (GENERATE, '{"document": "one"}\n{"document": "one two"}'),
    "refine": ("iterref:moves=30,tries=2", lines("alpha", "gamma alpha")),
    "infill": (GENERATE, lines("[alpha]", "gamma [alpha]")),
}


@pytest.mark.parametrize("name", list(RUNS))
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(fake: None, name: str, tmp_path: Path) -> None:
    file, (method, text) = tmp_path / "mine.py", RUNS[name]
    file.write_text(STOPPING.format(call=5, error="KeyboardInterrupt"))
    options = ("--json", "--sampler", method, "--reward", f"{file}:stopping")
    result = call(name, *options, text=text)
    refused(result, "interrupted; the texts so far are written: go on from these lines with `iterref refine`", code=1)
    entries = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["document"] for entry in entries] == ["one", "one two"]
    for entry in entries:
        assert entry["reward"] == 0.5 * len(entry["text"]) and entry["cost"]["nfe"] < 30
    file.write_text(STOPPING.format(call=0, error="KeyboardInterrupt"))
    method = RUNS["refine"][0]
    again = call("refine", "--json", "--sampler", method, "--reward", f"{file}:stopping", text=result.stdout)
    assert again.exit_code == 0 and len(again.stdout.splitlines()) == 2, again.output


@pytest.mark.parametrize("name", ["refine", "infill"])  # `generate` has its drafts: test_cli_outputs
def test_ctrl_c_before_any_text_is_finished_writes_none(fake: None, name: str, tmp_path: Path) -> None:
    file, (method, text) = tmp_path / "mine.py", RUNS[name]
    file.write_text(STOPPING.format(call=1, error="KeyboardInterrupt"))
    result = call(name, "--sampler", method, "--reward", f"{file}:stopping", text=text)
    refused(result, "interrupted; no text was finished and none is written: start again", code=1)
    assert result.stdout == ""


def test_a_reward_that_fails_in_an_edit_exits_with_1_and_loses_nothing(fake: None, tmp_path: Path) -> None:
    file, (method, text) = tmp_path / "mine.py", RUNS["refine"]
    file.write_text(STOPPING.format(call=5, error="OSError('tired')"))
    result = call("refine", "--sampler", method, "--reward", f"{file}:stopping", text=text)
    refused(result, "the reward raised OSError (tired)", code=1)
    assert len(result.stdout.splitlines()) == 2


def test_an_interrupted_session_hands_out_its_run_with_all_that_was_spent() -> None:
    asked: list[int] = []

    def stopping(completions: Sequence[str]) -> list[float]:
        asked.append(len(completions))
        if len(asked) == 4:
            raise KeyboardInterrupt
        return [float(len(text)) for text in completions]

    chain = editing.edit(FakeModel(), ["alpha", "beta"], prompts=["one", "one two"], reward=stopping)
    with pytest.raises(Interrupted) as caught:
        chain.refine(sampler="iterref:moves=30,tries=2")
    partial = caught.value.partial
    assert not partial.finished and len(partial.texts) == 2 and chain.texts == ["alpha", "beta"]
    assert partial.rewards.tolist() == [float(len(text)) for text in partial.texts]
    assert partial.cost.reward_calls == sum(asked[:-1]) / 2  # of all calls that came back, the first texts' included
    assert issubclass(Interrupted, KeyboardInterrupt)  # whoever waits for Ctrl-C is told, too
