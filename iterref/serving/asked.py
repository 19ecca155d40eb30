"""Asked: a request's JSON as prompts, a seed and settings, or one sentence that refuses it.

    OpenAI's     model, prompt or messages, max_tokens, n, seed, stop, temperature, stream, stream_options
    our own      sampler, reward, nfe, alpha, columns, stream_states        (`extra_body` of the official client)

What of OpenAI's this server cannot honour is refused unless it has the value that changes nothing; what only labels a
request is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from json import dumps
from secrets import randbits
from typing import Any

from iterref.columns import shown
from iterref.lines import parsed
from iterref.models.base import Chat
from iterref.registry import did_you_mean
from iterref.serving.limits import LARGE, Limits, Refused

SEEDS = 2**63
OWN = ("sampler", "reward", "nfe", "alpha", "columns", "stream_states")
OF_BOTH = ("model", "n", "seed", "stop", "stream", "stream_options", "temperature", "max_tokens", *OWN)
FIELDS = {"completions": ("prompt", *OF_BOTH), "chat": ("messages", "max_completion_tokens", *OF_BOTH)}
LABELS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
# Fields of OpenAI's that nothing here answers to, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_p": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "echo": (False,),
    "suffix": ("",), "logprobs": (False,), "top_logprobs": (0,), "tools": ([],), "tool_choice": ("none",),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "parallel_tool_calls": (False, True),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What texts of one run have in common: method, reward, NFE a text, alpha, temperature, `n` texts a prompt, the
    most `tokens` of a text (the model's own number where None), and the strings that end one."""

    sampler: str | None = None
    reward: str = "consensus"
    nfe: int = 256
    alpha: float | None = None
    temperature: float = 1.0
    n: int = 1
    tokens: int | None = None
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """A request: its `prompts`, the `seed` of all of them, `settings`, columns of the reward (one value for all
    prompts), whether the answer is streamed, with the `states` of the run and the `usage`, and the `kind` of route."""

    kind: str
    prompts: tuple[str, ...]
    seed: int
    settings: Settings
    columns: Mapping[str, Any]
    stream: bool = False
    states: bool = False
    usage: bool = False


def read_request(body: bytes, kind: str, model: str, defaults: Settings, limits: Limits) -> Asked:
    """The request in a body for the route of a `kind`, "completions" or "chat", of a server whose model is called
    `model`. Raises `Refused`."""
    try:
        given = parsed(body.decode("utf-8-sig"), "the body", "send one JSON object")
    except UnicodeDecodeError:
        raise Refused("the body is no UTF-8 text: send one JSON object in UTF-8") from None
    except ValueError as error:
        raise Refused(str(error)) from None
    given = _typed(given, None, dict, "one JSON object")
    values = {name: value for name, value in given.items() if value is not None and name not in LABELS}
    _expect_known(values, kind)
    if values.get("model", model) != model:
        told = f"there is no model {str(values['model'])[:80]!r} here: this server has {model!r}"
        raise Refused(told, 404, "model", "model_not_found")
    if "max_completion_tokens" in values:
        values["max_tokens"] = values.pop("max_completion_tokens")
    prompts = _prompts(values.get("prompt"), limits) if kind == "completions" else (_chat(values.get("messages")),)
    columns = values.get("columns", {})
    if not isinstance(columns, dict) or not all(isinstance(one, str | int | float) for one in columns.values()):
        raise Refused("columns is an object of strings and numbers, the reward's own arguments", param="columns")
    seed = randbits(32) if "seed" not in values else _whole(values, "seed", -SEEDS, SEEDS - 1)
    options = _typed(values.get("stream_options", {}), "stream_options", dict, "an object")
    stream, states = (_flag(values, name) for name in ("stream", "stream_states"))
    if states and not stream:
        raise Refused("stream_states belongs to a stream: send stream=true, too", param="stream_states")
    settings = _settings(values, defaults, limits)
    return Asked(kind, prompts, seed, settings, columns, stream, states, _flag(options, "include_usage"))


def _settings(values: Mapping[str, Any], defaults: Settings, limits: Limits) -> Settings:
    """The settings of a request; what it does not say is the server's own."""
    most = {"n": limits.n, "nfe": limits.nfe, "max_tokens": limits.tokens}
    found: dict[str, Any] = {name: _whole(values, name, 1, most[name]) for name in most if name in values}
    if "max_tokens" in found:
        found["tokens"] = found.pop("max_tokens")
    found |= {name: _text(values[name], name) for name in ("sampler", "reward") if name in values}
    found |= {name: _number(values, name) for name in ("alpha", "temperature") if name in values}
    if "stop" in values:
        stops = [values["stop"]] if isinstance(values["stop"], str) else values["stop"]
        if not isinstance(stops, list) or len(stops) > 64 or not all(isinstance(one, str) for one in stops):
            raise Refused("stop is a string or a list of at most 64 strings, which end a text", param="stop")
        found["stops"] = tuple(stop for stop in stops if stop)  # "" ends nothing: harnesses send it for "no end token"
    assert {*found} <= {field.name for field in fields(Settings)}
    return replace(defaults, **found)


def _expect_known(values: Mapping[str, Any], kind: str) -> None:
    """Refuses a field that is not known, and one that asks for what is not done."""
    for name, value in values.items():
        if name in NEUTRAL:
            if value not in NEUTRAL[name] or isinstance(value, bool) != isinstance(NEUTRAL[name][0], bool):
                told = f"{name} is not supported, but for {' or '.join(map(dumps, NEUTRAL[name]))}, asking for nothing"
                raise Refused(f"{told}: leave it out", param=name)
        elif name == "best_of":
            if value != values.get("n", 1):
                raise Refused("best_of is a method here: send sampler='best_of_n' and nfe in its place", param=name)
        elif name in ("prompt", "messages") and name not in FIELDS[kind]:
            there = "/v1/completions" if name == "prompt" else "/v1/chat/completions"
            raise Refused(f"{name} belongs to {there}: send it there", param=name)
        elif name not in FIELDS[kind]:
            told = f"unknown field {name[:80]!r}{did_you_mean(name[:80], FIELDS[kind])}"
            raise Refused(f"{told} docs/serving.md lists the known ones", param=name[:80], code="unknown_parameter")


def _prompts(prompt: Any, limits: Limits) -> tuple[str, ...]:
    """The prompts of a completion."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts:
        raise _absent("prompt", prompt, "a string, or a list of strings")
    if any(isinstance(one, int | list) for one in prompts):
        raise Refused("prompt holds token ids, which are read as text alone: send strings", param="prompt")
    if len(prompts) > limits.prompts:
        raise Refused(f"{len(prompts)} prompts are too many for one request: send {limits.prompts}", param="prompt")
    for place, one in enumerate(prompts):
        if not isinstance(one, str):
            raise Refused(f"prompt {place} is {shown(one)}: send a string", param="prompt")
    return tuple(prompts)


def _chat(messages: Any) -> str:
    """The prompt that a conversation is: a plain string for one message of the user's alone."""
    if not isinstance(messages, list) or not messages:
        raise _absent("messages", messages, "a list of messages, the last of them the user's")
    said: list[tuple[str, str]] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refused("a message is an object with a role and a content", param="messages")
        role = "system" if message["role"] == "developer" else message["role"]
        said.append((role, _content(message)))
    try:
        chat = Chat(said)
    except ValueError as error:
        raise Refused(str(error), param="messages") from None
    return str(chat) if len(said) == 1 else chat


def _content(message: Mapping[str, Any]) -> str:
    """The text of a message, which may come in parts."""
    content = message.get("content")
    if isinstance(content, list) and not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        raise Refused("a message holds parts that are no text: send text alone", param="messages")
    texts: list[Any] = [part.get("text") for part in content] if isinstance(content, list) else [content]
    for text in texts:
        if not isinstance(text, str):
            raise Refused(f"the content of a message is {shown(text)}: send a string", param="messages")
    return "".join(texts)


def _absent(name: str, value: Any, what: str) -> Refused:
    """What is said where prompts are missing, or are something else."""
    given = "missing" if value is None or value == [] else shown(value)
    return Refused(f"{name} is {given}: send {what}", param=name)


def _typed(value: Any, name: str | None, kind: type, what: str) -> Any:
    """The value of a field, or the body for None, if it is of a kind."""
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise Refused(f"{name or 'the body'} is {shown(value)}: send {what}", param=name)
    return value


def _text(value: Any, name: str) -> str:
    return str(_typed(value, name, str, "a string"))


def _flag(values: Mapping[str, Any], name: str) -> bool:
    return bool(_typed(values.get(name, False), name, bool, "true or false"))


def _whole(values: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = int(_typed(values[name], name, int, "a whole number"))
    if not least <= value <= most:
        raise Refused(f"{name} is {str(value)[:20]}: send a number from {least} to {most}", param=name)
    return value


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGE:
        raise Refused(f"{name} is {shown(value)[:80]}: send a number from 0 to {LARGE:g}", param=name)
    return float(value)
