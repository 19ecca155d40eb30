"""Sessions: what a saved history knows, damage, threads, numbers of other types, and texts that have all the reward."""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iterref
from iterref.editing import Editing, History, edit
from iterref.rewards.base import RewardError
from tests.support.fakes import FakeModel, beta, fails_after

PROMPTS, TEXTS = ["one", "one two"], ["alpha gamma", "gamma alpha delta"]
SMALL = "iterref:moves=2,tries=2"


class Weighted(FakeModel):
    """A model with a network, whose weights say which one it is."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.network = torch.nn.Linear(3, 4, bias=False)
        torch.nn.init.constant_(self.network.weight, float(seed))


class Renamed(FakeModel):
    """A model whose tokens are other words."""

    def decode(self, tokens: torch.Tensor) -> list[str]:
        return [text.replace("alpha", "omega") for text in super().decode(tokens)]


class Uppercase(FakeModel):
    """A model of the same class name and words, which are written in another form."""

    def decode(self, tokens: torch.Tensor) -> list[str]:
        return [text.upper() for text in super().decode(tokens)]


Uppercase.__name__ = "FakeModel"  # by which a model without weights is known


def session(texts: Any = TEXTS, model: FakeModel | None = None, **options: Any) -> Editing:
    given = {"prompts": PROMPTS, "reward": beta, "alpha": 0.3, "room": 1, "drift": 0.9} | options
    return edit(model or FakeModel(), texts, **given)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "history.jsonl"
    session().refine(strength=1.0, sampler=SMALL).vary(2, sampler=SMALL).save(path)
    return path


# --- what a history knows ---------------------------------------------------------------------------------------------


def weighed(words: dict[str, float]) -> Callable[[list[str]], list[float]]:
    """Rewards that have one name and one code, and differ in what they have captured."""
    return lambda completions: [sum(words.get(word, 0) for word in text.split()) for text in completions]


OTHERS: dict[str, dict[str, Any]] = {
    "a function": {"reward": lambda completions: [float(len(text)) for text in completions]},
    "what it captured": {"reward": weighed({"beta": 2.0, "delta": 0.1})},
    "a model's own": {"reward": iterref.OwnDrafts(n=2, steps=1)},
    "a bound": {"drift": 0.0},
    "a distance": {"distance": "edit", "drift": 0.4},
    "no bound": {"drift": None, "reward": weighed({"gamma": 1.0})},
}


@pytest.mark.parametrize("other", OTHERS)
def test_under_another_reward_or_bound_all_numbers_are_made_anew(other: str, saved: Path) -> None:
    options = OTHERS[other]
    read = History.load(saved)
    chain = session(read, **options)
    assert chain.node.operation == "rescore" and len(chain.history) == len(read) + 1
    assert chain.texts == read.nodes[-1].texts and chain.node.cost.reward_calls == len(read)
    for node, before in zip(chain.history, read, strict=False):
        fresh = session(node.tokens, room=None, **{**options, "drift": None})
        first = session(read[0].tokens, room=1, **{**options, "drift": None})
        moved = first.context.drift(node.tokens, torch.arange(2))
        within = moved <= (options.get("drift", 0.9) or (1 if options.get("drift", 0.9) is None else 0))
        assert torch.equal(node.rewards, torch.where(within, fresh.rewards, -torch.inf))
        assert torch.equal(node.drift, moved) and torch.equal(node.tokens, before.tokens)
    assert chain.history.about != read.about or other == "what it captured"


def test_under_the_same_reward_a_history_stands_as_it_is(saved: Path) -> None:
    """The control, and what is known: the session goes on as if it had not been saved."""
    read = History.load(saved)
    chain = session(read)
    assert len(chain.history) == len(read) and chain.cost == read.nodes[-1].spent
    assert chain.history.about == read.about | {"reward": "tests.support.fakes.beta", "drift": 0.9}
    there = session().refine(strength=1.0, sampler=SMALL).vary(2, sampler=SMALL)
    assert torch.equal(chain.refine(sampler=SMALL).tokens, there.refine(sampler=SMALL).tokens)
    later = session(read, alpha=2.0, seed=9)  # what changes no number of the past may be changed
    assert len(later.history) == len(read)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": Weighted(1)}, "was made with another model"),
        ({"model": Renamed()}, "was made with another model"),
        ({"prompts": ["one", "two three"]}, "was made with another prompts"),
        ({"prompts": ["one"]}, "2 texts for 1 prompts"),
    ],
)
def test_another_model_or_other_prompts_are_refused(options: dict[str, Any], said: str, saved: Path) -> None:
    with pytest.raises(ValueError, match=said):
        session(History.load(saved), **options)


def test_weights_tell_models_of_one_class_apart(tmp_path: Path) -> None:
    session(model=Weighted(1)).save(tmp_path / "file")
    with pytest.raises(ValueError, match="another model"):
        session(History.load(tmp_path / "file"), model=Weighted(2))
    session(History.load(tmp_path / "file"), model=Weighted(1))


def test_a_session_of_texts_in_the_user_s_form_goes_on(tmp_path: Path) -> None:
    """Their tokens read otherwise than they stand, at the start and around regions."""
    chain = session(["Alpha  beta.", "Beta"]).infill(["Alpha  [beta].", None], sampler=SMALL)
    assert chain.history[0].texts == ["Alpha  beta.", "Beta"] and chain.texts[0].startswith("Alpha  ")
    assert chain.result is not None and chain.result.texts == chain.texts  # which is what goes to a file
    chain.save(tmp_path / "file")
    read = session(History.load(tmp_path / "file"))
    assert read.texts == chain.texts and len(read.history) == len(chain.history)
    with pytest.raises(ValueError, match="another tokenizer"):
        session(History.load(tmp_path / "file"), model=Uppercase())


def test_without_a_digest_a_model_is_known_by_its_texts(saved: Path) -> None:
    read = History.load(saved)
    read.about.clear()
    with pytest.raises(ValueError, match="node 0 of the history holds no texts of this model"):
        session(read, model=Renamed())
    read.nodes[1].tokens[0, 0] = 99
    with pytest.raises(ValueError, match="node 1 of the history holds no texts of this model"):
        session(read)


# --- damage -----------------------------------------------------------------------------------------------------------


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def put(name: str, value: Any, node: int = 1) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        entries = lines(path)
        entries[node + 1][name] = value
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    return harm


def kept(first: int, last: int | None) -> Callable[[Path], None]:
    return lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[first:last])) and None


HARM: dict[str, Callable[[Path], Any]] = {
    "cut within a line": lambda path: path.write_text(path.read_text()[:-40]),
    "cut between lines": kept(0, -1),
    "nothing but the head": kept(0, 1),
    "no head": kept(1, None),
    "empty": kept(0, 0),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "about": put("about", [], -1),
    "a field is missing": lambda path: path.write_text(path.read_text().replace('"drift"', '"shift"')),
    "tokens of other lengths": put("tokens", [[1, 2], [3]]),
    "tokens of fewer rows": put("tokens", [[1, 2, 3]]),
    "tokens with fractions": put("tokens", [[1, 2, 0.5], [1, 2, 3]]),
    "texts": put("texts", ["one"]),
    "texts are numbers": put("texts", [1, 2]),
    "rewards are words": put("rewards", ["high", 1.0]),
    "rewards are NaN": put("rewards", [float("nan"), 1.0]),
    "a reward too many": put("rewards", [1.0, 1.0, 1.0]),
    "a parent to come": put("parent", 3),
    "a second root": put("parent", None),
    "sources": put("sources", [0, 99], 3),
    "kept": put("kept", [7]),
    "cost": put("cost", ["much", 1, 1]),
    "cost of four": put("cost", [1, 1, 1, 1]),
    "spent": put("spent", [1, 1, 1]),
    "id": put("id", 5),
    "path": put("path", [0, 3]),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_history_is_refused_in_one_sentence(harm: str, saved: Path) -> None:
    HARM[harm](saved)
    with pytest.raises(ValueError, match=r"history.jsonl (is no history|is damaged)") as caught:
        History.load(saved)
    assert "\n" not in str(caught.value)


def test_texts_may_hold_any_sign_that_cuts_lines(tmp_path: Path) -> None:
    history = session().history
    history.nodes[0] = replace(history[0], texts=["a\u2028b\x0cc\r\nd", "\x85"])
    history.save(tmp_path / "file")
    assert History.load(tmp_path / "file")[0].texts == history[0].texts


def test_a_history_is_replaced_whole_or_not_at_all(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"history.jsonl cannot be written \(the disk is full\)"):
        session().save(saved)
    assert saved.read_bytes() == before and [file.name for file in saved.parent.iterdir()] == [saved.name]


# --- threads ----------------------------------------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[[Editing], Editing]] = {
    "refine": lambda chain: chain.refine(strength=0.6, sampler=SMALL),
    "vary": lambda chain: chain.vary(2, strength=0.6, sampler=SMALL),
    "infill": lambda chain: chain.infill(["[alpha] gamma", None], sampler=SMALL),
    "back": lambda chain: chain.back([0, 0]),
    "refine and refine": lambda chain: chain.refine(sampler=SMALL) and chain.refine(sampler=SMALL),
    "maximise": lambda chain: chain.refine(sampler=f"{SMALL},objective=maximise"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_threads_on_one_session_draw_what_serial_calls_would(operation: str) -> None:
    call, threaded, serial = OPERATIONS[operation], session(), session()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: call(threaded), range(3)))
    for _ in range(3):
        call(serial)
    assert len(threaded.history) == len(serial.history)
    for node, same in zip(threaded.history, serial.history, strict=True):
        assert node.path == same.path and torch.equal(node.tokens, same.tokens)
        assert (node.id, node.spent) == (same.id, same.spent)


def test_a_session_can_be_copied_and_goes_its_own_way() -> None:
    chain = session()
    other = copy.deepcopy(chain)
    assert torch.equal(other.refine(sampler=SMALL).tokens, chain.refine(sampler=SMALL).tokens)
    assert other.context.turn is not chain.context.turn


# --- numbers ----------------------------------------------------------------------------------------------------------

INFILL = ["[alpha] gamma", None]
WRONG: list[tuple[Callable[[Editing], Any], str]] = [
    (lambda chain: chain.refine(strength="0.3"), "strength= is a str ('0.3') and no number"),
    (lambda chain: chain.refine(strength=True), "strength= is a bool (True) and no number"),
    (lambda chain: chain.refine(strength=None), "strength= is None and no number"),
    (lambda chain: chain.refine(strength=float("nan")), "strength must lie in"),
    (lambda chain: chain.infill(INFILL, strength="all"), "strength= is a str ('all') and no number"),
    (lambda chain: chain.infill(INFILL, length=1.5), "length= is a float (1.5) and no whole number"),
    (lambda chain: chain.infill(INFILL, length="2"), "length= is a str ('2') and no whole number"),
    (lambda chain: chain.vary(2.0), "n= is a float (2.0) and no whole number"),
    (lambda chain: chain.vary("4"), "n= is a str ('4') and no whole number"),
    (lambda chain: chain.back("0"), "node= is a str ('0') and no whole number"),
    (lambda chain: chain.back(0.0), "node= is a float (0.0) and no whole number"),
    (lambda chain: chain.back([0, 0.5]), "node= is a float (0.5) and no whole number"),
    (lambda chain: chain.back(None), "node= is None and no whole number"),
    (lambda chain: chain.history.tree("1"), "row= is a str ('1') and no whole number"),
    (lambda chain: session(room="4"), "room= is a str ('4') and no whole number"),
    (lambda chain: session(room=1.5), "room= is a float (1.5) and no whole number"),
    (lambda chain: session(drift="0.5"), "drift= is a str ('0.5') and no number"),
    (lambda chain: session(drift=True), "drift= is a bool (True) and no number"),
]


@pytest.mark.parametrize(("attempt", "said"), WRONG, ids=[said[-30:] for _, said in WRONG])
def test_numbers_of_other_types_are_refused_in_a_sentence(attempt: Callable[[Editing], Any], said: str) -> None:
    chain = session()
    with pytest.raises((TypeError, ValueError)) as caught:
        attempt(chain)
    assert said in str(caught.value) and "\n" not in str(caught.value) and len(chain.history) == 1


def test_numbers_of_other_libraries_are_numbers_and_are_saved(tmp_path: Path) -> None:
    chain = session(room=np.int64(1), drift=np.float32(1.0)).refine(strength=np.float64(0.5), sampler=SMALL)
    chain = chain.vary(np.int32(2), strength=np.float32(0.5), sampler=SMALL).back(np.int64(1))
    chain = chain.back(torch.tensor([0, 1])).infill(["[alpha] gamma", None], length=np.int64(1), sampler=SMALL)
    chain.save(tmp_path / "file")
    assert str(History.load(tmp_path / "file")) == str(chain.history)


# --- texts that have all of the reward --------------------------------------------------------------------------------


def flat(completions: Sequence[str]) -> list[float]:
    return [1.0 for _ in completions]


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("operation", ["refine", "infill"])
def test_a_text_is_left_only_for_a_better_one_where_the_reward_is_maximised(operation: str, strength: float) -> None:
    method = f"{SMALL},objective=maximise"

    def done(chain: Editing, sampler: str) -> Editing:
        if operation == "refine":
            return chain.refine(strength=strength, sampler=sampler)
        return chain.infill(["[alpha gamma]", "[gamma alpha delta]"], strength=strength, sampler=sampler)

    chain = session(reward=flat, drift=None)
    kept_ = done(chain, method)
    assert kept_.texts == TEXTS and kept_.result is not None
    assert kept_.result.texts == TEXTS and torch.equal(kept_.result.best.tokens, chain.tokens)
    assert kept_.node.kept == ()  # it was allowed to change
    moved = [done(session(reward=flat, drift=None, seed=seed), SMALL).texts for seed in range(4)]
    assert any(texts != TEXTS for texts in moved)  # the control: what samples moves
    better = done(session(drift=None, alpha=0.05), method)
    assert better.rewards.tolist() == beta(better.texts) and bool((better.rewards >= chain.rewards * 0).all())


def test_the_one_call_leaves_texts_that_have_it_all() -> None:
    one = iterref.refine(FakeModel(), TEXTS, prompts=PROMPTS, reward=flat, budget=16)
    assert one.texts == TEXTS and one.result is not None and one.result.tokens.equal(one.tokens)


def test_what_a_failing_reward_leaves_of_alternatives_is_a_text_a_row() -> None:
    chain = session(reward=fails_after(3))
    with pytest.raises(RewardError) as caught:
        chain.vary(3, strength=1.0, sampler="iterref:moves=40,tries=4")
    partial = caught.value.partial
    assert len(partial.texts) == len(partial.rewards) == 2 and partial.asked.reward_calls > 3


def test_a_model_without_prompts_needs_none():
    model, texts = iterref.load("tiny-books"), ["the captain [saw a boat] on the sea."]
    settings = {"reward": lambda completions, **_: [float(len(text)) for text in completions], "budget": 24}
    assert (
        iterref.infill(model, texts, **settings).texts == iterref.infill(model, texts, prompts=[""], **settings).texts
    )
    with pytest.raises(ValueError, match="prompt 0 is empty: pass a document"):
        iterref.infill("tiny-news", texts, **settings)
