"""Automata of bytes: what is accepted, the fewest states, and preimages under what a decoder does."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref.constraint.strings import Strings, union

ALPHABET = b"ab ,"
TEXTS = [bytes(text) for size in range(6) for text in product(ALPHABET, repeat=size)]
few = settings(max_examples=20, deadline=None)
short = st.text("ab ,", min_size=1, max_size=3).map(str.encode)


def random_strings(seed: int, states: int = 4) -> Strings:
    generator = np.random.default_rng(seed)
    step = np.full((states, 256), -1)
    step[:, list(ALPHABET)] = generator.integers(-1, states, (states, len(ALPHABET)))
    final = generator.random(states) < 0.5
    final[generator.integers(states)] = True
    return Strings(step, final)


@few
@given(st.integers(0, 10_000))
def test_the_least_automaton_has_the_same_texts(seed):
    one = random_strings(seed)
    least = one.least()
    assert [least.accepts(text) for text in TEXTS] == [one.accepts(text) for text in TEXTS]
    assert len(least.step) <= len(one.step) and len(least.least().step) == len(least.step)


def test_states_that_are_alike_are_one():
    step = np.full((4, 256), -1)
    step[0, ord("a")], step[0, ord("b")], step[1, ord("a")], step[2, ord("a")] = 1, 2, 3, 3
    assert len(Strings(step, np.array([False, False, False, True])).least().step) == 3
    step[2, ord("a")] = 0  # negative control: 1 and 2 lead elsewhere
    assert len(Strings(step, np.array([False, False, False, True])).least().step) == 4


@few
@given(st.integers(0, 10_000), short, st.text("ab ,", max_size=2).map(str.encode))
def test_before_a_replacement(seed, old, new):
    one = random_strings(seed)
    before = one.before_replacing(old, new)
    assert [before.accepts(text) for text in TEXTS] == [one.accepts(text.replace(old, new)) for text in TEXTS]


@few
@given(st.integers(0, 10_000), st.integers(0, 2))
def test_before_blanks_are_taken_off(seed, most):
    one = random_strings(seed)
    before = one.before_stripping(ord(" "), most)

    def stripped(text: bytes) -> bytes:
        return text[min(most, len(text) - len(text.lstrip(b" "))) :]

    assert [before.accepts(text) for text in TEXTS] == [one.accepts(stripped(text)) for text in TEXTS]


@few
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=4))
def test_several_automata_as_one(seeds):
    languages = [random_strings(seed).least() for seed in seeds]
    step, final, starts = union(languages)
    assert len(step) <= sum(len(one.step) for one in languages)
    for one, start in zip(languages, starts, strict=True):
        assert [Strings(step, final, start).accepts(text) for text in TEXTS] == [one.accepts(text) for text in TEXTS]


def test_languages_share_the_states_in_which_they_end_alike():
    """So many letters: what is left to read is all that counts, so that many lengths cost as much as the longest."""

    def letters(n: int) -> Strings:
        step = np.full((n + 1, 256), -1)
        step[:n, ord("a")] = range(1, n + 1)
        return Strings(step, np.arange(n + 1) == n)

    step, final, starts = union([letters(n) for n in range(1, 6)])
    assert len(step) == 6
    for n, start in enumerate(starts, 1):
        assert [size for size in range(8) if Strings(step, final, start).accepts(b"a" * size)] == [n]


@pytest.mark.parametrize("seed", range(12))
def test_without_blanks_at_the_ends_and_behind_one(seed):
    strings = random_strings(seed)
    bare = strings.bare()
    behind, either = bare.behind_blank(True), bare.behind_blank(False)
    for text in TEXTS:
        inside = strings.accepts(text) and text == text.strip()
        assert bare.accepts(text) == behind.accepts(b" " + text) == inside
        assert either.accepts(text) == (bare.accepts(text) or behind.accepts(text))


def test_what_has_no_text_is_one_state():
    one = Strings(np.full((3, 256), -1), np.array([False, True, True])).least()
    assert one.step.shape == (1, 256) and not one.final.any()
    assert not any(one.accepts(text) for text in TEXTS)


@pytest.mark.parametrize("text, there", [("é", True), ("e", False)])
def test_bytes_are_those_of_utf8(text, there):
    step = np.full((3, 256), -1)
    first, second = "é".encode()
    step[0, first], step[1, second] = 1, 2
    assert Strings(step, np.array([False, False, True])).accepts(text.encode()) == there
