"""The page on serving: its code runs against the server that it starts, and gives what it shows."""

from __future__ import annotations

import json
import re
import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from iterref.loading import load
from iterref.serving.asked import Settings
from iterref.serving.limits import Limits
from tests.support.serving import ask, served

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_page_shows_what_its_code_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL)
    assert len(parts) == 3
    with served(load("tiny-news"), ["length:8"], name="tiny-news", settings=Settings(reward="length:8", nfe=64)) as url:
        code = "\n".join(code for code, _ in parts) + "\nclient.close()\n"
        (tmp_path / "page.py").write_text(code.replace("http://127.0.0.1:8000/v1", url), encoding="utf-8")
        runpy.run_path(str(tmp_path / "page.py"))
        body = re.findall(r"-d '(\{.*?\})'", PAGE, re.DOTALL)[0].replace("\n", " ")
        status, found = ask(url, "/v1/completions", json.loads(re.sub(" +", " ", body)))
    said = iter(capsys.readouterr().out.splitlines())
    shown = [line for _, lines in parts for line in lines.splitlines() if line != "..."]
    assert all(line in said for line in shown)  # in this order
    assert status == 200 and found["iterref"] == {"seed": 7, "sampler": "auto", "reward": "length:8", "nfe": 64}
    for choice in found["choices"]:
        assert f'"text":{json.dumps(choice["text"])}' in PAGE
    assert json.dumps(found["usage"], separators=(",", ":")) in PAGE


@pytest.mark.slow
def test_64_clients_of_a_network_get_what_each_gets_alone() -> None:
    """Up to rounding, which is another in batches of another size: at most two of the texts."""
    lines = (ROOT / "iterref" / "data" / "news.jsonl").read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line)["document"] for line in lines]
    asked = [{"prompt": documents[at % len(documents)], "seed": at} for at in range(64)]
    settings = Settings(reward="length:8", nfe=16)
    with served(load("tiny-news"), ["length:8"], settings=settings, limits=Limits(batch=24)) as url:
        alone = [ask(url, "/v1/completions", body)[1]["choices"][0]["text"] for body in asked]
        with ThreadPoolExecutor(64) as pool:
            answers = pool.map(lambda body: ask(url, "/v1/completions", body)[1], asked)
            together = [answer["choices"][0]["text"] for answer in answers]
        runs = float(re.findall(r"^iterref_runs_total (\S+)", ask(url, "/metrics")[1], re.MULTILINE)[0])
    assert runs < 64 + 16
    assert sum(one == other for one, other in zip(alone, together, strict=True)) >= 62
    assert sum(one == other for one, other in zip(alone, alone[32:] + alone[:32], strict=True)) < 32  # the control
