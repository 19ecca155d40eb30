"""The server under the clients of others: the harness' `local-completions`, and the command that starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iterref.serving.asked import Settings
from iterref.serving.limits import Limits
from iterref.serving.server import is_loopback
from tests.support.commands import call, refused
from tests.support.serving import ask, served
from tests.support.sums import Sums


def test_the_harness_evaluates_through_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`local-completions` on a task of the examples: several requests at once, each with several prompts."""
    lm_eval = pytest.importorskip("lm_eval", reason="the harness is not installed: pip install 'iterref[lm-eval]'")
    import datasets
    import yaml
    from lm_eval.tasks import TaskManager

    tasks = Path(__file__).parents[2] / "examples" / "lm_eval"
    monkeypatch.chdir(tasks)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    task: dict[str, Any] = yaml.safe_load((tasks / "sums.yaml").read_text(encoding="utf-8"))
    task["doc_to_text"] = "{{sum}} ="
    with served(Sums(), ["length:1"], settings=Settings(reward="length:1", nfe=32, sampler="iterref")) as url:
        found = lm_eval.simple_evaluate(
            model="local-completions", tasks=[task], task_manager=TaskManager(include_defaults=False), batch_size=4,
            bootstrap_iters=0, model_args={
                "base_url": f"{url}/completions", "model": "exact", "num_concurrent": 4, "tokenizer_backend": None,
                "tokenized_requests": False, "max_retries": 1,
            },
        )  # fmt: skip
        texts = [sample["resps"][0][0] for sample in found["samples"]["sums"]]
        alone = [ask(url, "/v1/completions", {"prompt": f"{sample['doc']['sum']} =", "seed": 1234, "temperature": 0,
                                              "stop": ["\n\n", "Question:"]})[1]["choices"][0]["text"]
                 for sample in found["samples"]["sums"]]  # fmt: skip
    assert texts == alone and all(re.fullmatch(r" ?\d+", text) for text in texts)
    targets = [int(sample["target"]) for sample in found["samples"]["sums"]]
    share = sum(int(text) == target for text, target in zip(texts, targets, strict=True)) / len(texts)
    assert found["results"]["sums"]["exact_match,first-number"] == share


def test_the_command_serves_until_it_is_interrupted() -> None:
    """Of the bundled model, in a process of its own; its address is told."""
    command = [sys.executable, "-c", "from iterref.cli import main; main()", "serve", "tiny-news", "--port", "0",
               "--reward", "length:6", "--nfe", "8", "--api-key", "k", "--max-nfe", "16"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = line.strip().rpartition(" ")[2]
        assert line.startswith("tiny-news is served at http://127.0.0.1:"), line + process.stderr.read()
        body = {"model": "tiny-news", "prompt": "A fire destroyed a mill in the town.", "seed": 1}
        status, found = ask(url, "/v1/completions", body, Authorization="Bearer k")
        assert status == 200 and 0 < len(found["choices"][0]["text"].split()) < 20 and found["iterref"]["nfe"] == 8
        status, found = ask(url, "/v1/completions", {**body, "prompt": "A fire 漢."}, Authorization="Bearer k")
        assert status == 400 and "prompt 0" in found["error"]["message"]
        assert ask(url, "/v1/completions", {**body, "nfe": 17}, Authorization="Bearer k")[0] == 400
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0 and process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "given, sentence",
    [
        (["--host", "0.0.0.0"], "0.0.0.0 is open to other machines: give an API key (--api-key)"),
        (["--reward", "lenght:2"], "did you mean 'length'"),
        (["--reward", "nowhere.py:f"], "there is no file nowhere.py"),
        (["--sampler", "iteref"], "did you mean 'iterref'"),
        (["--nfe", "64", "--max-nfe", "32"], "--nfe 64 is more than --max-nfe 32"),
        (["--dtype", "float7"], "float7"),
        (["--nfe", "64"], "the budget of 64 NFE + 4,096 reward calls leaves no room after the 128 NFE of the drafts"),
        (["--temperature", "-1"], "'--temperature': -1.0 is not in the range"),
        (["--alpha", "0"], "'--alpha': 0.0 is not in the range"),
    ],
)
def test_what_cannot_be_served_is_refused(given: list[str], sentence: str) -> None:
    refused(call("serve", "tiny-news", *given), sentence)


def test_hosts_and_limits() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.2", "example.org")))
    with pytest.raises(ValueError, match="the limit queue is 0: give a positive number"):
        Limits(queue=0)


def test_without_its_packages_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    refused(call("serve", "tiny-news"), "a server needs uvicorn: pip install 'iterref[serve]'")
