"""The page on serving: each of its blocks runs alone against the server that it starts, and gives what it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from iterref.loading import load
from iterref.serving.asked import Settings
from iterref.serving.limits import Limits
from tests.support.blocks import ADDRESS, agrees, blocks, run, started, steers
from tests.support.serving import ask, served

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of the server that the page starts."""
    with started(PAGE) as address:
        yield address


@pytest.mark.parametrize("code, shown", list(blocks("serving.md")))
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # clients that scripts leave open
def test_a_block_runs_alone_shows_what_it_gives_and_something_else_without_a_reward(
    url: str, code: str, shown: str
) -> None:
    code = code.replace(ADDRESS, url)
    found = run(code)
    assert agrees(found.printed, shown), found.printed
    assert steers(code, found)


def test_the_page_shows_what_curl_gets(url: str) -> None:
    [body] = re.findall(r"-d '(\{.*?\})'", PAGE, re.DOTALL)
    status, found = ask(url, "/v1/completions", body.encode())
    assert status == 200 and len(list(blocks("serving.md"))) == PAGE.count("```python") == 3
    text = f'"text":{json.dumps(found["choices"][0]["text"])}'
    told = [json.dumps(found[name], separators=(",", ":")) for name in ("usage", "iterref")]
    assert all(part in PAGE for part in (text, *told, ADDRESS))


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
