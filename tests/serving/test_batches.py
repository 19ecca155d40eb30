"""What is asked of models of other kinds: answers of any length, conversations, texts that begin with their prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from iterref.generation import generate
from iterref.loading import load
from iterref.models import Chat, Stopping
from iterref.random import identity
from iterref.serving.asked import Settings
from iterref.serving.batches import budget_of
from tests.support import llada
from tests.support.serving import ask, served
from tests.support.tokenizers import codec, knowing_nothing

SETTINGS = Settings(sampler="ancestral", reward="length:2", nfe=4)


def test_answers_have_the_length_that_is_asked_for_and_chats_all_their_messages(tmp_path: Path) -> None:
    llada.checkpoint(tmp_path)
    model = load(tmp_path, length=6)
    rest = {"reward": "length:2", "sampler": "ancestral", "budget": budget_of(SETTINGS)}
    with served(model, ["length:2"], settings=SETTINGS) as url:
        for size in (3, 9):
            status, found = ask(url, "/v1/completions", {"prompt": "the cat", "seed": 1, "max_tokens": size})
            made = generate(load(tmp_path, length=size), ["the cat"], rows=[identity(1, "the cat")], **rest)  # type: ignore[arg-type]
            assert status == 200 and found["choices"][0]["text"] == (made.texts or [])[0]
            assert found["usage"]["completion_tokens"] <= size and found["usage"]["prompt_tokens"] == 2
        said = [("system", "the dog ran"), ("user", "a cat"), ("assistant", "a man"), ("user", "the cat")]
        messages = [{"role": role, "content": text} for role, text in said]
        body = {"messages": messages, "seed": 1, "max_completion_tokens": 5, "stop": "cat"}
        status, found = ask(url, "/v1/chat/completions", body)
        stopping = Stopping(load(tmp_path, length=5), ["cat"])
        made = generate(stopping, [Chat(said)], rows=[identity(1, "the cat")], **rest)  # type: ignore[arg-type]
        assert status == 200 and found["choices"][0]["message"]["content"] == (made.texts or [])[0]
        bodies = [{"messages": messages[at:], "seed": 1} for at in (0, 3)]
        whole, last = (ask(url, "/v1/chat/completions", body)[1]["choices"][0]["message"]["content"] for body in bodies)
        assert whole != last  # what was said before is read
        status, found = ask(url, "/v1/chat/completions", {"messages": [{"role": "user", "content": "a <|eot_id|>"}]})
        assert status == 400 and "prompt 0" in found["error"]["message"]


@pytest.mark.parametrize("kind", ["words", "bytes"])
def test_a_completion_does_not_begin_with_its_prompt(tmp_path: Path, kind: str) -> None:
    model = knowing_nothing(codec(tmp_path, kind), length=9)
    with served(model, ["length:2"], settings=SETTINGS) as url:
        status, found = ask(url, "/v1/completions", {"prompt": "the cat", "seed": 3, "n": 4, "nfe": 8})
        assert status == 200, found
        made = generate(
            model, ["the cat"], reward="length:2", sampler="ancestral", rows=[identity(3, "the cat")],
            budget=budget_of(Settings(nfe=8)), num_return_sequences=4,
        )  # fmt: skip
        assert [f"the cat{choice['text']}" for choice in found["choices"]] == made.texts
        stopped = ask(url, "/v1/completions", {"prompt": "the cat", "seed": 3, "n": 4, "nfe": 8, "stop": ["a", "t"]})[1]
        texts = [choice["text"] for choice in stopped["choices"]]  # "the cat" holds both, and ends nothing
        assert texts == [min(choice["text"].partition(stop)[0] for stop in "at") for choice in found["choices"]]
