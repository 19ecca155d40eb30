"""Texts by an engine: those of `generate`, whatever the jobs; refusals and poison; the command line; the real thing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from iterref import loading
from iterref.engine import local, manifest
from iterref.engine.jobs import Batch, Poison, grid, read_table
from iterref.engine.texts import VISIBLE, Texts, own_gpus
from iterref.generation import generate
from tests.support import families
from tests.support.commands import METHOD, call, refused
from tests.support.engine_runs import NEWS, REAL, lines, objects, same_as_alone
from tests.support.engine_work import Here
from tests.support.fakes import FakeModel

PROMPTS = ["one", "one two", "one two three", "one two three four", "one"]
TABLE = read_table(PROMPTS, {"wanted": ["alpha", "beta", "gamma", "delta", "alpha"]})
JUDGE = "classifier:sentiment-judge:positive"
OPTIONS: dict[str, Any] = {"sampler": METHOD, "seed": 3, "alpha": 0.2}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small exact model, and workers within this process."""
    monkeypatch.setattr(loading, "load", lambda name=None, **place: FakeModel())
    monkeypatch.setattr(local, "Local", lambda work, workers, **options: Here(work))


def wanted(completions: list[str], wanted: list[str]) -> list[float]:
    return [float(text.split().count(word)) for text, word in zip(completions, wanted, strict=True)]


def work(reward: Any = wanted, **options: Any) -> Texts:
    return Texts("fake", {"device": "cpu"}, lambda: reward, OPTIONS | options, TABLE.of(grid(5, 5)[0]))


@pytest.mark.parametrize("reward", [wanted, "consensus"])
def test_a_row_has_the_text_that_generate_gives_it_whatever_its_job(fake: None, reward: Any) -> None:
    whole = generate(FakeModel(), PROMPTS, reward=reward, columns=TABLE.columns, **OPTIONS)
    for size in (1, 2, 5):
        step = work(reward).open(0)
        found = [each for job in grid(5, size) for each in step(TABLE.of(job))]
        assert [each["text"] for each in found] == whole.texts
        assert [each["reward"] for each in found] == whole.rewards.tolist()
        assert [each["best"] for each in found] == whole.best.reward.tolist()
        assert all(each["asked"] == vars(whole.asked) for each in found)
    other = generate(FakeModel(), PROMPTS, reward=reward, columns=TABLE.columns, **(OPTIONS | {"seed": 4}))
    assert other.texts != whole.texts


def test_poison_says_what_failed_and_whether_to_try_again(fake: None) -> None:
    def fails(completions: list[str]) -> list[float]:
        raise OSError("the judge is away")

    long = Batch([7], ["a b c d e f g"], {"wanted": ["alpha"]})
    with pytest.raises(Poison, match="prompt 0 has 7 words") as found:
        work().open(0)(long)
    assert not found.value.again
    with pytest.raises(Poison, match="^OSError: the judge is away$") as found:
        work(fails).open(0)(TABLE.of(grid(5, 2)[0]))
    assert found.value.again
    never = work(lambda completions: [-torch.inf] * len(completions)).open(0)(TABLE.of(grid(5, 2)[0]))
    assert [each["reward"] for each in never] == [None, None]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sampler": "iteref"}, "did you mean 'iterref'"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"budget": 1}, "budget of 1 NFE is too small"),
        ({"start": "drafts"}, "needs one pool of drafts"),
        ({"reward": lambda completions, nowhere: []}, "nowhere"),
        ({"reward": "consensu"}, "unknown reward"),
    ],
)
def test_options_that_fit_no_row_are_refused_before_any(fake: None, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        work(**options).open(0)
    work().open(0)


def test_a_worker_takes_its_gpu_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def load(name: str, **place: Any) -> FakeModel:
        seen.append(place["device"])
        return FakeModel()

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked = work()
    for slot in range(3):
        Texts("fake", {"device": "cuda"}, asked.reward, OPTIONS, asked.sample).open(slot)
    Texts("fake", {"device": "cuda:1"}, asked.reward, OPTIONS, asked.sample).open(0)
    assert seen == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


def test_a_worker_sees_its_own_gpus_alone(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv(VISIBLE, raising=False)
    seen = []
    for slot in range(2):
        with monkeypatch.context() as patch:
            patch.setenv(VISIBLE, "")
            replace(work(), gpus=2).open(slot)
            seen.append(os.environ[VISIBLE])
    assert seen == ["0,1", "2,3"]
    assert own_gpus(1, 2, "4,5,6,7", 4) == "6,7" and own_gpus(0, 1, "GPU-b7", 1) == "GPU-b7"
    with pytest.raises(ValueError, match="worker 3 needs 2 GPUs and 4 are here"):
        own_gpus(2, 2, None, 4)
    work().open(0)
    assert VISIBLE not in os.environ


# --- what a run is ----------------------------------------------------------------------------------------------------


def test_a_model_and_a_reward_are_told_by_their_bytes(tmp_path: Path) -> None:
    assert manifest.model_told("tiny-news") != manifest.model_told("tiny-books")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = manifest.model_told(str(folder))
    (folder / "notes.txt").touch()
    assert manifest.model_told(str(folder)) == before
    (folder / "model.safetensors").write_bytes(b"0")
    assert manifest.model_told(str(folder)) != before
    with pytest.raises(FileNotFoundError, match="'tiny-olds' is no folder here"):
        manifest.model_told("tiny-olds")
    file = tmp_path / "mine.py"
    file.write_text("1")
    told = manifest.reward_told(f"{file}:f")
    file.write_text("2")
    assert manifest.reward_told(f"{file}:f") != told and manifest.reward_told("length:3") == {"name": "length:3"}


def test_code_beside_a_reward_and_weights_of_a_reward_are_told_too(tmp_path: Path) -> None:
    file, beside, deep = tmp_path / "mine.py", tmp_path / "words.py", tmp_path / "kit" / "inner.py"
    deep.parent.mkdir()
    for place, text in ((file, "import os\nimport words\n"), (beside, "from kit import inner\n"), (deep, "A = 1\n")):
        place.write_text(text)
    seen = [manifest.reward_told(f"{file}:f")["code"]]
    for place in (file, beside, deep):
        place.write_text(place.read_text() + "B = 2\n")
        seen.append(manifest.reward_told(f"{file}:f")["code"])
    (tmp_path / "other.py").write_text("unrelated")
    assert len(set(seen)) == 4 and manifest.reward_told(f"{file}:f")["code"] == seen[-1]
    folder = tmp_path / "judge"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        (folder / name).write_bytes(b"0")
    named = f"classifier:model={folder},label=good"
    for reward in (f"classifier:{folder}:good", f"perplexity:{folder}", f"similarity:{folder}", named):
        told = [manifest.reward_told(reward)]
        for name in ("config.json", "model.safetensors", "vocab.txt"):
            (folder / name).write_bytes((folder / name).read_bytes() + b"1")  # swapped weights, or another tokenizer
            told.append(manifest.reward_told(reward))
        assert len({each["weights"]["hash"] for each in told}) == 4
    bundled = [manifest.reward_told(name)["weights"]["hash"] for name in ("classifier", JUDGE, "sentiment:negative")]
    assert bundled[0] == bundled[2] != bundled[1] and manifest.reward_told("perplexity")["weights"]["hash"]
    with pytest.raises(FileNotFoundError, match="'no/such' is no folder here"):
        manifest.reward_told("classifier:no/such:good")


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_writes_a_folder_and_goes_on_in_it(fake: None, tmp_path: Path) -> None:
    out = tmp_path / "results"
    command = ["generate", "--engine", "local", "--out", str(out), "--job-rows", "2", "--sampler", METHOD]
    done = call(*command, "--reward", "length:2", text=lines(*PROMPTS))
    assert done.exit_code == 0, done.output
    assert "results.jsonl and results.parquet, 5 rows; " in done.stdout and "rows/s by 1 worker" in done.stdout
    found = objects(out / "results.jsonl")
    plain = call("generate", "--json", "--sampler", METHOD, "--reward", "length:2", text=lines(*PROMPTS))
    assert [(each["document"], each["text"], each["reward"]) for each in found] == [
        (each["document"], each["text"], each["reward"]) for each in map(json.loads, plain.stdout.splitlines())
    ]
    told = json.loads((out / "manifest.json").read_bytes())
    assert told["options"]["seed"] == 0 and told["rows"] == 5 and told["model"]["name"] == "tiny-news"
    again = call(*command, "--reward", "length:2", "--workers", "2", "--max-rows", "3", text=lines(*PROMPTS))
    assert again.exit_code == 0  # what only sets the pace may change
    refused(call(*command, "--reward", "length:3", text=lines(*PROMPTS)), 'reward.name "length:2" and not "length:3"')
    seeded = call(*command, "--reward", "length:2", "--seed", "1", text=lines(*PROMPTS))
    refused(seeded, "holds a run with options.seed 0 and not 1: give the options")
    other = call(*command, "--reward", "length:2", text=lines(*PROMPTS[:4], "two"))
    refused(other, "the data of row 4 of the input are not")


FIELDS = [
    {"prompt": "one", "id": "a7", "place": 1, "tags": ["x", 1], "mixed": 1, "huge": 2**70, "at": {"b": None}, "row": 9},
    {"prompt": "one two", "id": "b8", "place": 2, "tags": [], "mixed": "two", "huge": 1, "at": {}, "row": 8},
    {"prompt": "one", "id": "\u2028", "place": 3, "tags": [None], "mixed": 2.5, "huge": 0, "at": {"c": [1]}, "row": 7},
]


def test_the_folder_carries_all_fields_and_the_next_command_reads_it(fake: None, tmp_path: Path) -> None:
    """As `--json` does: ids and columns, TRL's names, tokens; a field of mixed types is JSON in the Parquet file."""
    text = "".join(json.dumps(line) + "\n" for line in FIELDS)
    common = ("--sampler", METHOD, "--reward", "length:2")
    out = tmp_path / "out"
    done = call("generate", "--engine", "local", "--out", str(out), "--job-rows", "2", *common, text=text)
    assert done.exit_code == 0, done.output
    found, plain = objects(out / "results.jsonl"), call("generate", "--json", *common, text=text)
    for row, (line, own, one) in enumerate(zip(found, FIELDS, read(plain.stdout), strict=True)):
        assert {**own, "row": row}.items() <= line.items() and "document" not in line and "text" not in line
        assert {name: line[name] for name in ("completion", "reward", "tokens")}.items() <= one.items()
        assert FakeModel().decode(torch.tensor([line["tokens"]])) == [line["completion"]]
    packed = pq.read_table(out / "results.parquet").to_pylist()
    texts = ("tags", "mixed", "huge", "at")
    assert [{**line, **{name: json.loads(line[name]) if not isinstance(line[name], str) or line[name] != "two"
                        else "two" for name in texts}} for line in packed] == found  # fmt: skip
    for file in ("results.jsonl", "results.parquet"):
        again = call("refine", str(out / file), "--json", "--sampler", "iterref:moves=2", "--reward", "length:2")
        assert again.exit_code == 0, again.output
        for line, own in zip(read(again.stdout), FIELDS, strict=True):
            assert line["id"] == own["id"] and line["place"] == own["place"]
            assert not {"best", "asked", "error"} & {*line}  # said of the run before
    other = text.replace("a7", "a8")
    refused(call("generate", "--engine", "local", "--out", str(out), "--job-rows", "2", *common, text=other), "row 0")


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n") if line]


def test_an_engine_s_answers_have_at_most_the_new_tokens_of_generate_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = families.folder(tmp_path, "llada"), "cat\nthe dog ran the cat\n"
    command = ["generate", "--model", str(model), "--sampler", "best_of_n:steps=2,n=2", "--reward", "length:2"]
    plain = call(*command, "--json", "--max-new-tokens", "3", text=text)
    assert plain.exit_code == 0, plain.output
    assert [len(json.loads(line)["tokens"]) for line in plain.stdout.splitlines()] == [3, 3]
    monkeypatch.setattr(local, "Local", lambda work, workers, **options: Here(work))
    engine = [*command, "--engine", "local", "--out", str(tmp_path / "out")]
    assert call(*engine, "--max-new-tokens", "3", text=text).exit_code == 0
    found = objects(tmp_path / "out" / "results.jsonl")
    assert [each["text"] for each in found] == [json.loads(line)["text"] for line in plain.stdout.splitlines()]
    told = "holds a run with options.max_new_tokens 3 and not 4"
    refused(call(*engine, "--max-new-tokens", "4", text=text), told)
    refused(call(*engine, "--max-new-tokens", "0", text=text), "0 is not in the range x>=1")
    other = [*engine[:-1], str(tmp_path / "other"), "--max-new-tokens", "3"]
    refused(call(*other, "--length", "5", text="a\n"), "say one of --length and --max-new-tokens")
    refused(call(*other, "--model", "tiny-news", text="a\n"), "max_new_tokens= is for models that")
    refused(call(*command, "--model", "tiny-news", "--max-new-tokens", "3", text="a\n"), "max_new_tokens= is for")


def test_rows_that_were_set_aside_make_exit_code_1_and_can_be_tried_again(fake: None, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    body = "def judge(completions, prompts):\n    assert 'one two' not in prompts, 'no such judge'\n"
    file.write_text(body + "    return [float(len(text)) for text in completions]\n")
    out = tmp_path / "results"
    command = ["generate", "--engine", "local", "--out", str(out), "--sampler", METHOD, "--reward", f"{file}:judge"]
    refused(call(*command, text=lines(*PROMPTS)), "1 of 5 rows were set aside with their errors", code=1)
    [failed] = objects(out / "failed.jsonl")
    assert failed["row"] == 1 and failed["text"] is None and "no such judge" in failed["error"]
    file.write_text(file.read_text().replace("'one two'", "'nothing'"))
    refused(call(*command, text=lines(*PROMPTS)), "holds a run with reward.code ")
    assert call(*command, "--retry-failed", text=lines(*PROMPTS)).exit_code == 0
    assert call(*command, text=lines(*PROMPTS)).exit_code == 0 and not (out / "failed.jsonl").exists()


def test_a_corrected_line_is_gone_on_with_and_named(fake: None, tmp_path: Path) -> None:
    out = tmp_path / "results"
    command = ["generate", "--engine", "local", "--out", str(out), "--job-rows", "2", "--sampler", METHOD]
    command += ["--reward", "length:2"]
    wrong = lines(*PROMPTS[:3], "much too long a prompt for this", "one")
    refused(call(*command, text=wrong), "1 of 5 rows were set aside with their errors", code=1)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    fixed = lines(*PROMPTS)
    refused(call(*command, text=fixed), "the data of row 3 of the input are not those that")
    refused(call(*command, text=lines(*PROMPTS[:3])), "holds a run with data")  # other rows, not another line
    done = call(*command, "--retry-failed", text=fixed)
    assert done.exit_code == 0 and "row 3 of the input changed: 1 finished rows are made again" in done.stderr
    after = {path.name: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    assert after.keys() == before.keys() and sum(after[name] != before[name] for name in after) == 1  # of one job
    alone = generate(FakeModel(), PROMPTS, reward=near_two, sampler=METHOD)
    assert [each["text"] for each in objects(out / "results.jsonl")] == alone.texts
    assert call(*command, text=fixed).exit_code == 0 and not (out / "failed.jsonl").exists()
    changed = lines(PROMPTS[1], *PROMPTS[1:])  # a finished row: its whole job is made again
    refused(call(*command, text=changed), "the data of row 0 of the input are not those that")
    done = call(*command, "--retry-failed", text=changed)
    assert "row 0 of the input changed: 2 finished rows are made again" in done.stderr
    assert objects(out / "results.jsonl")[0]["document"] == PROMPTS[1]


def test_a_folder_that_cannot_be_made_or_written_is_one_sentence(
    fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["generate", "--engine", "local", "--sampler", METHOD, "--reward", "length:2"]
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file" / "out"):
        refused(call(*command, "--out", str(wrong), text="one\n"), f"{wrong} cannot be made a folder (")
    from iterref.engine import results

    def full(path: Path) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    real, out = results.whole, tmp_path / "out"
    told = f"{out} cannot be written (No space left on device): what is finished is kept; make room"
    for folder in ("parts", "out"):  # a finished job, and the view of all of them
        monkeypatch.setattr(results, "whole", lambda path, at=folder: full(path) if at == path.parent.name
                            and path.suffix in (".jsonl", ".parquet") else real(path))  # fmt: skip
        refused(call(*command, "--out", str(out), text="one\n"), told, code=1)
    monkeypatch.setattr(results, "whole", real)
    assert call(*command, "--out", str(out), text="one\n").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--engine", "local"], "an engine writes a folder: say --out FOLDER"),
        (["--engine", "local", "--html", "run.html"], "a page shows one run in one process"),
        (["--engine", "local", "--ray-address", "auto"], "--ray-address belongs to --engine ray"),
        (["--engine", "local", "--gpus", "0.5"], "0.5 of a GPU for each is for --engine ray"),
        (["--engine", "local", "--workers", "2", "--device-map", "auto"], "need GPUs of their own: say --gpus"),
        (["--engine", "rank", "--device-map", "auto"], "need GPUs of their own: say --gpus"),
        (["--max-memory", "0"], "the limit '0' cannot be read: write DEVICE=SIZE"),
        (["--engine", "rank"], "needs RANK below WORLD_SIZE in the environment"),
        (["--engine", "local", "--model", "tiny-olds"], "'tiny-olds' is no folder here"),
        (["--engine", "local", "--reward", "consensu"], "did you mean 'consensus'"),
        (["--engine", "local", "--sampler", "iteref"], "did you mean 'iterref'"),
        (["--engine", "local", "--budget", "2"], "leaves no room after the 128 NFE of the drafts"),
        (["--workers", "2"], "--workers belongs to an engine: say --engine local"),
        (["--retry-failed"], "--retry-failed belongs to an engine"),
    ],
)
def test_wrong_use_of_an_engine_is_refused(fake: None, tmp_path: Path, arguments: list[str], told: str) -> None:
    out = [] if "say --out" in told else ["--out", str(tmp_path / "out")]
    refused(call("generate", *arguments, *out, text="one\n"), told)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_ctrl_c_says_that_the_same_command_goes_on(
    fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    command = ["generate", "--engine", "local", "--out", str(tmp_path), "--sampler", METHOD, "--reward", "length:2"]
    with monkeypatch.context() as patched:
        patched.setattr("iterref.engine.drive.drive", pressed)
        refused(call(*command, text="one\n"), f"interrupted; what is finished is kept in {tmp_path}: rerun", code=1)
    assert call(*command, text="one\n").exit_code == 0  # and the folder is not locked


# --- the real thing ---------------------------------------------------------------------------------------------------

def test_two_processes_with_the_bundled_model(tmp_path: Path) -> None:
    done = call("generate", "--engine", "local", "--out", str(tmp_path / "results"), *REAL, text=lines(*NEWS))
    assert done.exit_code == 0, done.output
    same_as_alone(objects(tmp_path / "results" / "results.jsonl"))


def test_ranks_share_the_jobs_of_a_command(fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["generate", "--engine", "rank", "--out", str(tmp_path), "--job-rows", "2", "--sampler", METHOD]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, told in (("1", "rank 1 of 2 has made its rows; 3 rows of others are missing"), ("0", "5 rows; ")):
        monkeypatch.setenv("RANK", rank)
        done = call(*command, "--reward", "length:2", text=lines(*PROMPTS))
        assert done.exit_code == 0 and told in done.stdout, done.output
    alone = generate(FakeModel(), PROMPTS, reward=near_two, sampler=METHOD)
    assert [each["text"] for each in objects(tmp_path / "results.jsonl")] == alone.texts


@pytest.mark.slow
def test_ranks_that_torchrun_starts(tmp_path: Path) -> None:
    out, file = tmp_path / "results", tmp_path / "prompts.jsonl"
    file.write_text(lines(*NEWS))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    start = [sys.executable, "-c", "from iterref.cli import main; main()", "generate", str(file), "--engine", "rank"]
    done = subprocess.run([*launch, *start, "--out", str(out), *REAL[:-2]], capture_output=True, text=True, check=True)
    assert "3 rows; " in done.stdout and "leaked" not in done.stderr
    assert len(list(out.glob("parts/*.jsonl"))) == 3
    same_as_alone(objects(out / "results.jsonl"))


@pytest.mark.slow
def test_ctrl_c_in_a_shell_keeps_what_is_finished(tmp_path: Path) -> None:
    out, file = tmp_path / "results", tmp_path / "prompts.jsonl"
    file.write_text(lines(*NEWS))
    start = [sys.executable, "-c", "from iterref.cli import main; main()", "generate", str(file)]
    command = [*start, "--engine", "local", "--out", str(out), *REAL]
    begun = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 120
    while not list(out.glob("parts/*.jsonl")) and begun.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    os.killpg(begun.pid, signal.SIGINT)  # as a terminal does, to the workers too
    told = begun.communicate()[1]
    assert begun.returncode in (0, 1) and "Traceback" not in told
    assert begun.returncode == 0 or f"what is finished is kept in {out}: rerun the command to resume" in told
    assert subprocess.run(command, check=False).returncode == 0
    same_as_alone(objects(out / "results.jsonl"))


def near_two(completions: list[str]) -> list[float]:
    return [1 - abs(len(text.split()) - 2) / 2 for text in completions]
