"""What a request may say: the page on serving names all of it, with the limits that the server has."""

from __future__ import annotations

import re
from pathlib import Path

from iterref.cli.serve import MOST, SECONDS
from iterref.random import identity
from iterref.serving.asked import FIELDS, NEUTRAL, Settings, read_request
from iterref.serving.limits import REWARD_CALLS, Limits

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_page_names_every_field_and_limit() -> None:
    fields = {name for kind in FIELDS.values() for name in kind} - {"model", "max_completion_tokens", "stream_options"}
    assert {name for name in fields if f"`{name}`" not in PAGE} == set()
    limits = vars(Limits())
    for name, value in limits.items():
        told = re.search(rf"`--(?:max-)?{name.replace('_', '-')}`[^(|]*\((?:[^)]*?)([\d.]+)(?: MiB)?[,)]", PAGE)
        assert told is not None, name
        assert float(told[1]) * (2**20 if name == "body" else 1) == value, name
    assert {*MOST, *SECONDS} == set(limits) and f"at most {REWARD_CALLS} for each" in PAGE


def test_what_asks_for_nothing_changes_nothing() -> None:
    """A client that sends every field of OpenAI's with the value that it has by itself gets what one gets without."""
    plain = read_request(b'{"prompt": "a", "seed": 1}', "completions", "m", Settings(), Limits())
    marked = b'\xef\xbb\xbf{"prompt": "a", "seed": 1}'  # by a byte order mark, as some editors do
    assert read_request(marked, "completions", "m", Settings(), Limits()) == plain
    for name in ("top_p", "frequency_penalty", "presence_penalty"):
        body = f'{{"prompt": "a", "seed": 1, "{name}": {NEUTRAL[name][0]}, "user": "u", "logprobs": null, "n": 1}}'
        assert read_request(body.encode(), "completions", "m", Settings(), Limits()) == plain


def test_an_identity_is_of_a_seed_and_a_prompt() -> None:
    found = {identity(seed, prompt) for seed in range(-50, 50) for prompt in ("", "a", "b", "1", "a'")}
    assert len(found) == 500 and all(0 <= one < 2**32 for one in found)
    assert identity(1, "a") == identity(1, "a") != identity("1", "a")
