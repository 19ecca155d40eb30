"""Brackets: words in which every bracket closes the last one that is open, a bigram model that cannot know, a checker.

    words     of even length L over k kinds of brackets (a Dyck language); tokens 0 .. k - 1 open, k .. 2k - 1 close
    model     a Markov chain, T = (1 - h) T_words + h / 2k, with the pair statistics of uniform random words:
              T_words(open a, open b) = p / k,  (open a, close a) = 1 - p,  (close a, any b) = q / k or (1 - q) / k
    reward    r(x) = - (brackets that have no partner of their own kind),  0 for a word and there alone

p and q, the chances that an opening bracket follows an opening and a closing one, are the exact shares over all words
of length L. The share h keeps every pair possible, as the smoothing of a bigram model does. The model knows which
neighbours go together, and has forgotten what is open. Reward and checker share no code, so that one can be held
against the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iterref.exact.markov import Markov
from iterref.noise import Noise
from iterref.rewards.algebra import Composable

OPEN, CLOSED = "([{<", ")]}>"


class Unmatched(Composable):
    """Minus the brackets that have no partner of their own kind; from -L to 0 for words of L brackets.

    Partners are found by depth alone: the path of the depth crosses every level upwards and downwards in turn, and
    an opening bracket belongs to the next crossing of its level.
    """

    def __init__(self, kinds: int) -> None:
        self.kinds = checked_kinds(kinds)

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Words (R, L) long, (R,) long -> (R,) float64; every row has the same rules, so `rows` plays no part."""
        opening = tokens < self.kinds
        level = torch.where(opening, 1, -1).cumsum(1) + (~opening).long()  # of the step, by its upper end
        order = level.argsort(dim=1, stable=True)
        level, opening, kind = (x.gather(1, order) for x in (level, opening, tokens % self.kinds))
        pairs = opening[:, :-1] & ~opening[:, 1:] & (level.diff(dim=1) == 0) & (kind.diff(dim=1) == 0)
        return (2 * pairs.sum(1) - tokens.shape[1]).double()


def written(tokens: Sequence[int], kinds: int) -> str:
    """A word as text."""
    return "".join((OPEN[:kinds] + CLOSED[:kinds])[token] for token in tokens)


def rest(text: str) -> int:
    """How many brackets are left when matching neighbours are struck out again and again: the checker.

    A word is right where nothing is left.
    """
    before = ""
    while text != before:
        before = text
        for pair in map("".join, zip(OPEN, CLOSED, strict=True)):
            text = text.replace(pair, "")
    return len(text)


def chain(length: int, kinds: int, noise: Noise, smoothing: float) -> Markov:
    """The bigram model of words of a length, which knows nothing of their nesting.

    Raises `ValueError` for an odd length, a number of kinds without brackets, or a smoothing outside (0, 1).
    """
    checked_kinds(kinds)
    if length < 4 or length % 2 or not 0 < smoothing < 1:
        raise ValueError(f"words need an even length from 4 on and a smoothing in (0, 1), got {length} and {smoothing}")
    after_open, after_closed = opening_rates(length)
    same, every = torch.eye(kinds, dtype=torch.float64), torch.ones(kinds, kinds, dtype=torch.float64) / kinds
    table = torch.cat([
        torch.cat([after_open * every, (1 - after_open) * same], 1),
        torch.cat([after_closed * every, (1 - after_closed) * every], 1),
    ])  # fmt: skip
    start = torch.cat([every[0], torch.zeros(kinds, dtype=torch.float64)])
    flat = smoothing / (2 * kinds)
    return Markov(((1 - smoothing) * start + flat).log(), ((1 - smoothing) * table + flat).log(), length, noise)


def opening_rates(length: int) -> tuple[float, float]:
    """The shares of opening brackets after an opening and after a closing one, over all words of a length.

    ways[n][d] = how many ways there are from depth d down to 0 in n steps.
    """
    ways = [[1] + [0] * (length + 1)]
    for _ in range(length):
        last = ways[-1]
        ways.append([last[1]] + [last[d - 1] + last[d + 1] for d in range(1, length + 1)] + [0])
    begun = [1] + [0] * (length + 1)  # ways from depth 0 up to d
    counts = {(one, two): 0 for one in (1, -1) for two in (1, -1)}
    for left in range(length - 2, -1, -1):
        for depth, times in enumerate(begun[:-1]):
            for one, two in counts:
                if depth + one >= 0 and 0 <= depth + one + two <= length:
                    counts[one, two] += times * ways[left][depth + one + two]
        begun = [begun[1]] + [begun[d - 1] + begun[d + 1] for d in range(1, length + 1)] + [0]
    up, down = (counts[one, 1] / (counts[one, 1] + counts[one, -1]) for one in (1, -1))
    return up, down


def checked_kinds(kinds: int) -> int:
    """The number of kinds, if there are so many brackets. Raises `ValueError` otherwise."""
    if not 1 <= kinds <= len(OPEN):
        raise ValueError(f"there are 1 to {len(OPEN)} kinds of brackets, not {kinds}")
    return kinds
