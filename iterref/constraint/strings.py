"""Automata of strings, byte by byte: what a regular expression compiles to, and what a decoder's tidying makes of it.

    delta(q, byte) = q' or none         over UTF-8

A tokenizer's decoder may tidy a text up after its tokens are joined (" ," becomes ",", a first blank goes). What is
constrained is the text that comes out, so a language is turned into that of the strings which become its texts: the
preimage of a regular language under a replacement is regular. Mohri (1997), Computational Linguistics 23.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

NOWHERE = -1
BLANKS = np.array([*range(9, 14), *range(28, 33)])  # bytes that `str.strip` takes off


@dataclass(frozen=True, eq=False)
class Strings:
    """A deterministic automaton of bytes: next states `step` (S, 256), -1 for none, the states `final` (S,) bool that a
    string may end in, and the one that it begins in."""

    step: np.ndarray
    final: np.ndarray
    start: int = 0

    def accepts(self, text: bytes) -> bool:
        """Whether a string is one of the language."""
        state = self.walked(np.array([self.start]), text)[0]
        return bool(state >= 0 and self.final[state])

    def walked(self, states: np.ndarray, text: bytes) -> np.ndarray:
        """Where a string leads from each of some states (K,), -1 for nowhere."""
        for byte in text:
            states = np.where(states >= 0, self.step[states, byte], NOWHERE)
        return states

    def least(self) -> Strings:
        """The automaton of the same language with the fewest states, without those that no string of it passes
        (Moore 1956)."""
        useful = self._useful()
        if self.start not in useful:
            return Strings(np.full((1, 256), NOWHERE), np.zeros(1, bool))
        number = np.full(len(self.step) + 1, NOWHERE)
        number[useful] = np.arange(len(useful))
        step, final = number[self.step[useful]], self.final[useful]
        label = _alike(step, final)
        first = np.unique(label, return_index=True)[1]
        return Strings(np.append(label, NOWHERE)[step[first]], final[first], int(label[number[self.start]]))

    def before_replacing(self, old: bytes, new: bytes) -> Strings:
        """The strings that become one of the language when every `old` in them, from the left, is replaced by `new`."""
        states, kept = len(self.step), len(old)
        fell = [_overlap(old[:m], old) for m in range(kept + 1)]
        every = np.arange(states)
        step, final = np.full((kept, states, 256), NOWHERE), np.zeros((kept, states), bool)
        for m in range(kept):  # m bytes of `old` are held back
            end = self.walked(every, old[:m])
            final[m] = (end >= 0) & self.final[end]
            for byte in range(256):
                at = m
                while at and old[at] != byte:
                    at = fell[at]
                at = at + 1 if old[at] == byte else 0
                held = old[:m] + bytes([byte])
                out = new if at == kept else held[: len(held) - at]
                to = self.walked(every, out)
                step[m, :, byte] = np.where(to >= 0, to + (at % kept) * states, NOWHERE)
        return Strings(step.reshape(-1, 256), final.reshape(-1), self.start).least()

    def before_stripping(self, byte: int, most: int) -> Strings:
        """The strings that become one of the language when up to `most` of a byte are taken from their beginning."""
        states = len(self.step)
        step, final = np.full((states + most, 256), NOWHERE), np.zeros(states + most, bool)
        step[:states], final[:states] = self.step, self.final
        for left in range(most):  # state S + left has left + 1 to take
            step[states + left] = self.step[self.start]
            step[states + left, byte] = states + left - 1 if left else self.start
            final[states + left] = self.final[self.start]
        return Strings(step, final, states + most - 1 if most else self.start).least()

    def bare(self) -> Strings:
        """The strings of the language without a blank at either end."""
        states = len(self.step)
        step = np.concatenate([self.step, self.step, self.step[self.start : self.start + 1]])
        behind = step[:, BLANKS]  # state S + s is s, behind a blank; the last one is the start
        step[:, BLANKS] = np.where(behind >= 0, behind + states, NOWHERE)
        step[-1, BLANKS] = NOWHERE
        final = np.concatenate([self.final, np.zeros(states, bool), self.final[self.start : self.start + 1]])
        return Strings(step, final, 2 * states).least()

    def behind_blank(self, must: bool) -> Strings:
        """The strings of a language that none of them begins with a blank in, behind one, or unless it `must` be there
        without one, too."""
        row = np.full(256, NOWHERE) if must else self.step[self.start].copy()
        row[ord(" ")] = self.start
        final = np.append(self.final, not must and self.final[self.start])
        return Strings(np.vstack([self.step, row]), final, len(self.step)).least()

    def _useful(self) -> np.ndarray:
        """The states on the way from the start to a final state, ascending."""
        end, (state, byte), last = len(self.step), (self.step >= 0).nonzero(), self.final.nonzero()[0]
        to = np.append(self.step[state, byte], np.full(len(last), end))  # one end stands for all final states
        state = np.append(state, last)
        ways = csr_array((np.ones(len(to), bool), (state, to)), shape=(end + 1, end + 1))
        before = breadth_first_order(ways.T.tocsr(), end, return_predecessors=False)
        useful = np.intersect1d(breadth_first_order(ways, self.start, return_predecessors=False), before)
        return useful[useful < end]


def union(languages: Sequence[Strings]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Several smallest automata as one: their steps (S, 256), final states (S,) and starts. Languages that end alike
    share those states, as texts of 5 and of 6 words do from the second word on."""
    offset = np.cumsum([0, *(len(one.step) for one in languages)])
    moved = [np.where(one.step >= 0, one.step + at, NOWHERE) for one, at in zip(languages, offset[:-1], strict=True)]
    step, final = np.concatenate(moved), np.concatenate([one.final for one in languages])
    starts = [int(one.start + at) for one, at in zip(languages, offset[:-1], strict=True)]
    if len(languages) == 1:
        return step, final, starts
    label = _alike(step, final)
    first = np.unique(label, return_index=True)[1]
    return np.append(label, NOWHERE)[step[first]], final[first], label[starts].tolist()


def _alike(step: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Numbers (S,) of states (S, 256), equal where the same strings lead to an end from them (Moore 1956)."""
    columns = np.unique(step, axis=1)
    by = np.random.default_rng(0).integers(1, 2**63, columns.shape[1] + 1, dtype=np.uint64)
    label, count = final.astype(np.int64), 0
    while (found := len(np.unique(label))) > count:  # digests tell states apart, 64 bits each
        count = found
        seen = np.append(label, NOWHERE)[columns].astype(np.uint64) + np.uint64(2)
        label = np.unique((seen * by[:-1]).sum(1) + label.astype(np.uint64) * by[-1], return_inverse=True)[1]
    return label


def _overlap(text: bytes, pattern: bytes) -> int:
    """How long the longest end of a text is, shorter than the text, that a pattern begins with."""
    return next((n for n in range(len(text) - 1, 0, -1) if pattern.startswith(text[len(text) - n :])), 0)
