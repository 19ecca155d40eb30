"""The server: OpenAI's client gets texts, clients do not change each other's, and broken ones get a sentence."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from iterref.generation import generate
from iterref.random import identity
from iterref.rewards import Length
from iterref.serving import app, server
from iterref.serving.asked import Settings
from iterref.serving.batches import budget_of
from iterref.serving.limits import Limits
from tests.support.serving import Exact, ask, connect, served

PROMPTS = ["one", "one two", "one two three", "one two three four"]
LIMITS = Limits(
    body=20_000, queue=80, batch=16, prompts=4, prompt_tokens=10, n=4, tokens=64, nfe=64, timeout=20, patience=0.7
)  # fmt: skip
SETTINGS = Settings(sampler="iterref", reward="length:2", nfe=8)
SLOW = """
import time
def slow(completions):
    time.sleep(0.05)
    return [float(text.count("a")) for text in completions]
def slower(completions):
    time.sleep(1.5)
    return [0.0] * len(completions)
def broken(completions):
    raise KeyError("a secret of the server")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "own_rewards.py").write_text(SLOW, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def rewards(folder: Path) -> list[str]:
    return ["length:2", *(f"{folder}/own_rewards.py:{name}" for name in ("slow", "broken", "slower"))]


@pytest.fixture(scope="module")
def url(rewards: list[str]) -> Iterator[str]:
    with served(Exact(), rewards, limits=LIMITS, settings=SETTINGS) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


# --- texts ------------------------------------------------------------------------------------------------------------


def test_a_text_is_the_one_that_python_makes(client: openai.OpenAI) -> None:
    found = client.completions.create(
        model="exact", prompt=PROMPTS, seed=7, n=2, extra_body={"sampler": "ancestral", "nfe": 4, "reward": "length:2"}
    )
    settings = Settings(nfe=4)
    made = generate(
        Exact(), PROMPTS, reward="length:2", sampler="ancestral", budget=budget_of(settings), num_return_sequences=2,
        rows=[identity(7, prompt) for prompt in PROMPTS],
    )  # fmt: skip
    assert [choice.text for choice in found.choices] == made.texts
    assert [choice.reward for choice in found.choices] == made.rewards.tolist()  # type: ignore[attr-defined]
    assert [choice.index for choice in found.choices] == list(range(8))
    assert found.usage is not None and found.usage.prompt_tokens == 10
    assert found.usage.completion_tokens == sum(len(text.split()) for text in made.texts or [])
    full = [len(choice.text.split()) == 3 for choice in found.choices]
    assert [choice.finish_reason == "length" for choice in found.choices] == full and len(set(full)) == 2


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    say: Any = [{"role": "user", "content": [{"type": "text", "text": "one two"}]}]
    found = client.chat.completions.create(model="exact", messages=say, seed=3, n=3)
    same = client.completions.create(model="exact", prompt="one two", seed=3, n=3)
    assert [one.message.content for one in found.choices] == [one.text for one in same.choices]
    assert {one.message.role for one in found.choices} == {"assistant"} and found.object == "chat.completion"


def test_a_seed_that_is_not_given_is_told_and_gives_the_text_again(client: openai.OpenAI) -> None:
    first = [client.completions.create(model="exact", prompt="one") for _ in range(8)]
    told = [one.model_dump()["iterref"]["seed"] for one in first]
    assert len(set(told)) == 8
    again = [client.completions.create(model="exact", prompt="one", seed=seed) for seed in told]
    assert [one.choices[0].text for one in again] == [one.choices[0].text for one in first]
    assert len({one.choices[0].text for one in first}) > 1  # another seed is another text


def test_64_clients_at_once_get_what_each_gets_alone(url: str) -> None:
    """Unlike seeds, prompts, numbers of texts and settings; batches are really shared, or this would say nothing."""
    asked = [
        {"prompt": PROMPTS[at % 4], "seed": at, "n": 1 + at % 16 // 15, "nfe": 8 + at % 3 // 2} for at in range(64)
    ]

    def texts(body: dict[str, Any]) -> list[str]:
        status, found = ask(url, "/v1/completions", body)
        assert status == 200, found
        return [choice["text"] for choice in found["choices"]]

    def runs() -> float:
        return float(re.findall(r"^iterref_runs_total (\S+)", ask(url, "/metrics")[1], re.MULTILINE)[0])

    alone = [texts(body) for body in asked]
    before = runs()
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(texts, asked))
    assert together == alone
    assert runs() - before < 40
    assert len({text for some in alone for text in some}) > 12
    assert [texts({**body, "seed": body["seed"] + 1}) for body in asked] != alone  # the control


def test_stop_strings_end_a_text_and_what_the_reward_judges(client: openai.OpenAI) -> None:
    whole = [client.completions.create(model="exact", prompt="one", seed=seed) for seed in range(12)]
    cut = [client.completions.create(model="exact", prompt="one", seed=seed, stop=["beta"]) for seed in range(12)]
    assert any("beta" in one.choices[0].text for one in whole)
    for one in cut:
        text, reward = one.choices[0].text, one.choices[0].model_dump()["reward"]
        assert "beta" not in text and reward == float(Length(2)([text])[0])
        assert one.usage is not None and one.usage.completion_tokens == len(text.split())  # none of what was cut


def test_a_stream_sends_the_finished_text_alone_as_text(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="exact", prompt=["one", "one two"], seed=5, n=2)
    chunks = list(client.completions.create(
        model="exact", prompt=["one", "one two"], seed=5, n=2, stream=True, stream_options={"include_usage": True},
        extra_body={"stream_states": True},
    ))  # fmt: skip
    joined = dict.fromkeys(range(4), "")
    ended = dict[int, str]()
    states = dict.fromkeys(range(4), 0)
    for chunk in chunks:
        for choice in chunk.choices:
            joined[choice.index] += choice.text
            assert choice.index not in ended
            if choice.finish_reason:
                ended[choice.index] = choice.finish_reason
            if state := choice.model_dump().get("state"):
                states[choice.index] += 1
                assert choice.text == "" and state["step"] == states[choice.index] <= state["steps"]
    assert joined == {one.index: one.text for one in whole.choices}
    assert ended == {one.index: one.finish_reason for one in whole.choices}
    assert set(states.values()) == {8}
    assert chunks[-1].usage == whole.usage and chunks[-1].choices == []


def test_a_stream_of_a_chat_without_states(client: openai.OpenAI) -> None:
    say: Any = [{"role": "user", "content": "one two"}]
    whole = client.chat.completions.create(model="exact", messages=say, seed=5)
    chunks = list(client.chat.completions.create(model="exact", messages=say, seed=5, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, whole.choices[0].finish_reason]


def test_a_stream_says_that_it_is_alive_and_what_went_wrong(
    url: str, client: openai.OpenAI, rewards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PULSE", 0.02)
    body = {"prompt": "one", "reward": rewards[1], "nfe": 8, "seed": 2}
    status, whole = ask(url, "/v1/completions", body)
    status, told = ask(url, "/v1/completions", {**body, "stream": True})
    comments, events = (
        [part for part in told.split("\n\n") if part.startswith(mark)] for mark in (": ", "data: ")
    )
    assert status == 200 and len(comments) > 2 and events[-1] == "data: [DONE]" and len(events) == 3
    assert json.loads(events[0][6:])["choices"][0]["text"] == whole["choices"][0]["text"]
    # the second prompt is refused when the stream has begun
    wrong = ["one", "one two three four five six seven"]
    with pytest.raises(openai.APIError, match="prompt 1 has 7 words"):
        list(client.completions.create(model="exact", prompt=wrong, stream=True, extra_body={"reward": rewards[1]}))


def test_models_health_and_metrics(client: openai.OpenAI, url: str) -> None:
    assert [model.id for model in client.models.list()] == ["exact"]
    assert client.models.retrieve("exact").owned_by == "iterref"
    with pytest.raises(openai.NotFoundError, match="there is no such model"):
        client.models.retrieve("other")
    assert ask(url, "/health") == (200, {"status": "ok"})
    status, text = ask(url, "/metrics")
    assert status == 200 and text.endswith("\n")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'iterref_\w+(\{(\w+="[^"]*",?)+\})? \d\S*', line) for line in lines)
    assert "# TYPE iterref_queue_texts gauge" in text and 'route="/health",status="200"' in text


# --- refusals ---------------------------------------------------------------------------------------------------------

DEEP = b'{"prompt": ' + b"[" * 9000 + b"]" * 9000 + b"}"
CHAT = "/v1/chat/completions"
WRONG: list[tuple[Any, int, str]] = [
    (b"{", 400, "the body is no JSON"),
    (b"", 400, "the body is no JSON"),
    (b"\xff\xfe", 400, "no UTF-8"),
    (b"[1]", 400, "send one JSON object"),
    (DEEP, 400, "nested too deeply: send one JSON object"),
    (b'{"prompt": "one", "seed": ' + b"9" * 5000 + b"}", 400, "thousands of digits"),
    (b'{"prompt": "one", "prompt": "two"}', 400, "twice"),
    (b'{"prompt": "\\ud800"}', 400, "no UTF-8 text: an escape in it is half of a surrogate pair"),
    (b'{"prompt": "one", "alpha": NaN}', 400, "alpha is a float (nan)"),
    ({}, 400, "prompt is missing"),
    ({"prompt": []}, 400, "prompt is missing"),
    ({"prompt": 3}, 400, "prompt is an int (3): send a string, or a list"),
    ({"prompt": [1, 2]}, 400, "token ids"),
    ({"prompt": ["one", None]}, 400, "prompt 1 is None"),
    ({"messages": [{"role": "user", "content": "one"}]}, 400, "messages belongs to /v1/chat/completions"),
    ({"prompt": ["one"] * 5}, 400, "too many for one request"),
    ({"prompt": "one " * 11}, 400, "a prompt has 11 tokens: send at most 10"),
    ({"prompt": "one", "model": "gpt-4"}, 404, "there is no model 'gpt-4' here"),
    ({"prompt": "one", "n": 5}, 400, "from 1 to 4"),
    ({"prompt": "one", "n": True}, 400, "send a whole number"),
    ({"prompt": "one", "n": "2"}, 400, "send a whole number"),
    ({"prompt": "one", "nfe": 65}, 400, "from 1 to 64"),
    ({"prompt": "one", "nfe": 0}, 400, "from 1 to 64"),
    ({"prompt": "one", "max_tokens": 65}, 400, "from 1 to 64"),
    ({"prompt": "one", "max_tokens": 2}, 400, "writes 3 positions at once"),
    ({"prompt": "one", "seed": 1.5}, 400, "seed is a float"),
    ({"prompt": "one", "seed": 2**63}, 400, "seed is"),
    ({"prompt": "one", "temperature": "hot"}, 400, "temperature is a str"),
    ({"prompt": "one", "temperature": -1}, 400, "from 0 to"),
    ({"prompt": "one", "temperature": 1e-300}, 400, "got 1e-300: pass 1e-30 or more"),
    ({"prompt": "one", "reward": "lenght:2"}, 400, "is not offered: did you mean 'length'?"),
    ({"prompt": "one", "alpha": 0}, 400, "alpha must be positive"),
    ({"prompt": "one", "stop": [1]}, 400, "stop is a string"),
    ({"prompt": "one", "stream": "yes"}, 400, "send true or false"),
    ({"prompt": "one", "stream_states": True}, 400, "send stream=true, too"),
    ({"prompt": "one", "logprobs": 1}, 400, "logprobs is not supported"),
    ({"prompt": "one", "echo": True}, 400, "echo is not supported"),
    ({"prompt": "one", "top_p": 0.9}, 400, "top_p is not supported"),
    ({"prompt": "one", "best_of": 4}, 400, "best_of_n"),
    ({"prompt": "one", "max_token": 4}, 400, "did you mean 'max_tokens'"),
    ({"prompt": "one", "sampler": "iteref"}, 400, "did you mean 'iterref'"),
    ({"prompt": "one", "sampler": "iterref:steps=900000"}, 400, "too small for one run"),
    ({"prompt": "one", "sampler": 4}, 400, "sampler is an int"),
    ({"prompt": "one", "columns": {"reference": ["x"]}}, 400, "columns is an object"),
    ({"prompt": "one two three four five six seven"}, 400, "prompt 0 has 7 words"),
    ({"prompt": ["one", "one two three four five six seven"]}, 400, "prompt 1 has 7 words"),
    ({"prompt": "one", "reward": "rouge"}, 400, "needs a column `reference`"),
]  # fmt: skip
WRONG_CHATS: list[tuple[Any, int, str]] = [
    ({}, 400, "messages is missing"),
    ({"messages": "one"}, 400, "messages is a str ('one'): send a list of messages"),
    ({"prompt": "one"}, 400, "prompt belongs to /v1/completions"),
    ({"messages": [{"role": "user"}]}, 400, "the content of a message is None"),
    ({"messages": [{"role": "user", "content": "one"}], "response_format": {"type": "json_object"}}, 400,
     'response_format is not supported, but for {"type": "text"}'),
    ({"messages": ["one"]}, 400, "a role and a content"),
    ({"messages": [{"role": "tool", "content": "one"}]}, 400, "the role 'tool'"),
    ({"messages": [{"role": "assistant", "content": "one"}]}, 400, "ends with what the user says"),
    ({"messages": [{"role": "user", "content": ""}]}, 400, "ends with what the user says"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "no text"),
    ({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}, 400, "no chat template"),
    ({"messages": [{"role": "user", "content": "one"}], "tools": [{}]}, 400, "tools is not supported"),
]
CASES = [("/v1/completions", *case) for case in WRONG] + [(CHAT, *case) for case in WRONG_CHATS]


@pytest.mark.parametrize("path, body, status, sentence", CASES, ids=lambda one: str(one)[:40])
def test_what_is_wrong_is_one_sentence(url: str, path: str, body: Any, status: int, sentence: str) -> None:
    got, answer = ask(url, path, body)
    assert got == status, answer
    assert answer.keys() == {"error"} and answer["error"].keys() == {"message", "type", "param", "code"}
    told = answer["error"]["message"]
    assert sentence in told and "\n" not in told and "Traceback" not in told and len(told) < 400
    assert answer["error"]["type"] == "invalid_request_error"


def test_other_routes_methods_and_types_are_refused_alike(url: str) -> None:
    for path, method, body, status in (
        ("/", "GET", None, 404), ("/v1/embeddings", "POST", {}, 404), ("/v1/completions", "GET", None, 405),
        ("/v1/models", "DELETE", None, 405), ("/metrics", "POST", {}, 405),
    ):  # fmt: skip
        got, answer = ask(url, path, body, method)
        assert (got, answer["error"]["type"]) == (status, "invalid_request_error")
    got, answer = ask(url, "/v1/completions", {"prompt": "one"}, Content_Type="text/plain")
    assert got == 415 and "Content-Type: application/json" in answer["error"]["message"]


def test_a_reward_of_a_client_s_own_is_refused(url: str, folder: Path, rewards: list[str]) -> None:
    """Paths, addresses and folders, whether they are there or not; what the server was started with is served."""
    (folder / "marker.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\ndef f(completions): return [0.0]\n")
    for reward in (
        f"{folder}/marker.py:f", "marker.py:f", f"{folder}/own_rewards.py:slow2", "http://127.0.0.1:1/x",
        "https://example.org", "served:http://127.0.0.1:1/x", "served:url=http://127.0.0.1:1/x", "served:1",
        f"classifier:{folder}", f"classifier:model={folder}", "classifier:5", "perplexity:model=/etc", "../x", "",
        "perplexity:5", "length:words=/etc/passwd", "nosuch", "length :2",
    ):  # fmt: skip
        status, answer = ask(url, "/v1/completions", {"prompt": "one", "reward": reward})
        assert status == 400, (reward, answer)
    assert not (folder / "ran").exists()
    for reward in ("length:3", "length:words=3", rewards[1]):
        assert ask(url, "/v1/completions", {"prompt": "one", "reward": reward})[0] == 200


def test_options_that_cost_are_bounded_by_the_budget(url: str) -> None:
    """A method's own option may ask for any number of candidates: what a text takes is within its NFE all the same."""

    def calls() -> float:
        return sum(
            float(re.findall(rf"^iterref_{name}_total (\S+)", ask(url, "/metrics")[1], re.MULTILINE)[0])
            for name in ("nfe", "reward_calls")
        )

    before = calls()
    for sampler in ("iterref:tries=900000", "iterref:decisions=900000", "smc:particles=900000", "best_of_n:n=900000"):
        status, answer = ask(url, "/v1/completions", {"prompt": "one", "sampler": sampler, "nfe": 8})
        assert status == 200 or "did you mean" in answer["error"]["message"] or "too small" in str(answer), answer
    assert 0 < calls() - before <= 4 * 8 * 65


def test_a_reward_that_fails_is_the_server_s_fault_and_tells_nothing(url: str, rewards: list[str]) -> None:
    status, answer = ask(url, "/v1/completions", {"prompt": "one", "reward": rewards[2]})
    assert status == 500 and answer["error"]["type"] == "server_error" and "secret" not in answer["error"]["message"]
    assert ask(url, "/v1/completions", {"prompt": "one"})[0] == 200


def test_bodies_that_are_too_large_are_cut_off(url: str) -> None:
    status, answer = ask(url, "/v1/completions", {"prompt": "one " * 6000})
    assert status == 413 and "longer than 20000 bytes" in answer["error"]["message"]
    with connect(url) as line:  # of no declared length, and without an end
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        line.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(6):
            line.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        assert line.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_what_is_no_http_is_told_so(url: str) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost localhost\r\n\r\n"  # without its colon
    for wrong in (b"\x00\x01\x02\r\n\r\n", head, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n"):
        with connect(url) as line:
            line.sendall(wrong)
            answer = b"".join(iter(lambda line=line: line.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 400 Bad Request")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"].startswith("this is no HTTP request")
    assert ask(url, "/health")[0] == 200


def test_slow_clients_are_let_go(url: str) -> None:
    """A head or a body that comes byte by byte, and a connection that says nothing, while others are answered."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    begun = time.monotonic()
    with connect(url) as silent, connect(url) as slow, connect(url) as drip:
        slow.sendall(head)
        drip.sendall(head + b"Content-Length: 900\r\n\r\n{")
        assert ask(url, "/v1/completions", {"prompt": "one"})[0] == 200
        for line in (silent, slow, drip):
            answer = line.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                answer += line.recv(4096)
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"].endswith("send it faster")
            assert line.recv(10) == b""
    assert time.monotonic() - begun < 5


def test_a_client_that_leaves_frees_the_model(url: str, rewards: list[str]) -> None:
    """A run whose clients all left, in a stream or not, is broken off; the next client does not wait for its end."""

    def given_up() -> float:
        return float(re.findall(r"^iterref_given_up_total (\S+)", ask(url, "/metrics")[1], re.MULTILINE)[0])

    for stream in (True, False):
        before = given_up()
        body = json.dumps({"prompt": "one", "reward": rewards[1], "nfe": 64, "stream": stream, "seed": 1,
                           "stream_states": stream}).encode()  # fmt: skip
        with connect(url) as line:
            line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            line.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            if stream:
                assert b"200 OK" in line.recv(100)
            else:
                time.sleep(0.3)
        begun = time.monotonic()
        assert ask(url, "/v1/completions", {"prompt": "one"})[0] == 200
        assert time.monotonic() - begun < 1.5  # the whole run takes 3 s and more
        assert given_up() == before + 1


# --- limits and keys --------------------------------------------------------------------------------------------------


def test_a_full_queue_and_a_long_wait_are_told(rewards: list[str]) -> None:
    limits = Limits(queue=3, batch=1, timeout=0.8, nfe=128)
    with served(Exact(), rewards, limits=limits, settings=SETTINGS) as url, ThreadPoolExecutor(12) as pool:
        slow = {"prompt": "one", "reward": rewards[1], "nfe": 128}
        found = list(pool.map(lambda _: ask(url, "/v1/completions", slow), range(12)))
        by = {status: answer for status, answer in found}
        assert set(by) == {429, 504} and by[429]["error"]["type"] == "rate_limit_error"
        assert "longer than this server waits" in by[504]["error"]["message"]
        assert ask(url, "/v1/completions", {"prompt": ["one"] * 4})[0] == 400  # no queue could hold it
        time.sleep(0.3)
        assert ask(url, "/v1/completions", {"prompt": "one"})[0] == 200


def test_those_who_have_left_do_not_fill_the_queue(rewards: list[str]) -> None:
    """While a run is in a slow call of the reward, those whose time is over still stood in the queue."""
    body = {"prompt": "one", "reward": rewards[3], "nfe": 4, "sampler": "ancestral"}
    limits = Limits(queue=3, batch=1, timeout=0.3)
    with served(Exact(), rewards, limits=limits, settings=SETTINGS) as url, ThreadPoolExecutor(4) as pool:
        running = pool.submit(ask, url, "/v1/completions", body)
        time.sleep(0.15)
        found = [running.result()[0], *pool.map(lambda _: ask(url, "/v1/completions", body)[0], range(3))]
        assert set(found) == {504} and ask(url, "/v1/completions", body)[0] == 504  # and not 429


def test_a_server_that_ends_breaks_off_its_run(rewards: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE", 1)
    with ThreadPoolExecutor(1) as pool:
        begun = time.monotonic()
        with served(Exact(), rewards, settings=SETTINGS) as url:
            answer = pool.submit(ask, url, "/v1/completions", {"prompt": "one", "reward": rewards[1], "nfe": 900})
            time.sleep(0.5)
        assert time.monotonic() - begun < 20  # the run alone takes 45 s
        status, told = answer.result()
        assert status == 503 and "is being shut down" in told["error"]["message"]


def test_a_key_is_asked_for_everywhere_but_of_the_health() -> None:
    with served(Exact(), ["length:2"], settings=SETTINGS, key="open sesame") as url:
        for path, body in (("/v1/completions", {"prompt": "one"}), ("/v1/models", None), ("/metrics", None)):
            for given in ("", "Bearer", "Bearer wrong", "Basic open sesame", "Bearer open sesame2"):
                status, answer = ask(url, path, body, Authorization=given)
                assert status == 401 and answer["error"]["code"] == "invalid_api_key"
            assert ask(url, path, body, Authorization="Bearer open sesame")[0] == 200
        assert ask(url, "/health")[0] == 200
        with openai.OpenAI(base_url=url, api_key="wrong") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_a_server_without_a_key_is_for_this_machine_alone(url: str) -> None:
    with pytest.raises(ValueError, match="open to other machines: give an API key"):
        with served(Exact(), ["length:2"], host="0.0.0.0"):
            pass
    assert url.startswith("http://127.0.0.1:")
    status, answer = ask(url, "/v1/models", Host="evil.example")
    assert status == 403 and "its own address" in answer["error"]["message"]
    assert ask(url, "/v1/models", Host="localhost:80")[0] == 200
