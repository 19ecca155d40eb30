"""Faults: sound text made unacceptable, by rules on its words or by gaps that a diffusion model fills in all at once.

    rules   words moved, swapped, dropped, doubled, taken from elsewhere, or put in a form that does not agree
    gaps    x^i ~ p(. | the rest), i in a gap, each drawn by itself: likely words that do not know of each other

The second kind is replaced token detection (Clark et al. 2020, arXiv:2003.10555) with the model that is to be steered
as the generator, and its typical fault: tokens of one step are independent.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Words = list[str]
# Forms that do not stand for each other: verbs by number, pronouns by case, articles and demonstratives, tenses.
TWINS = (
    "is are", "was were", "has have", "does do", "he him", "she her", "they them", "we us", "i me", "a an",
    "this these", "that those", "much many", "who which", "his he", "their they", "my mine", "go went", "see saw",
    "come came", "take took", "know knew", "be been", "can could", "will to", "to of", "in for", "at on",
)  # fmt: skip
OTHER = {one: other for pair in TWINS for one, other in (pair.split(), pair.split()[::-1])}
MOST = 0.15  # faults a word, at most
EDGE = 1  # the mark that ends a text stays where it is: a missing full stop is no fault of language


def swapped(words: Words, pool: Words, rng: random.Random) -> None:
    """Two neighbours change places."""
    i = rng.randrange(len(words) - 1 - EDGE)
    words[i], words[i + 1] = words[i + 1], words[i]


def moved(words: Words, pool: Words, rng: random.Random) -> None:
    """A word goes to some other place."""
    word = words.pop(rng.randrange(len(words) - EDGE))
    words.insert(rng.randrange(len(words)), word)


def dropped(words: Words, pool: Words, rng: random.Random) -> None:
    """A word is missing."""
    words.pop(rng.randrange(len(words) - EDGE))


def doubled(words: Words, pool: Words, rng: random.Random) -> None:
    """A word stands twice."""
    i = rng.randrange(len(words) - EDGE)
    words.insert(i, words[i])


def foreign(words: Words, pool: Words, rng: random.Random) -> None:
    """A word gives way to one from elsewhere."""
    words[rng.randrange(len(words) - EDGE)] = rng.choice(pool)


def disagreeing(words: Words, pool: Words, rng: random.Random) -> None:
    """A word takes a form that does not fit; another rule where no word has one."""
    places = [i for i, word in enumerate(words) if word in OTHER]
    if places:
        i = rng.choice(places)
        words[i] = OTHER[words[i]]
    else:
        moved(words, pool, rng)


RULES: tuple[Callable[[Words, Words, random.Random], None], ...] = (
    swapped, moved, dropped, doubled, foreign, disagreeing, disagreeing,
)  # fmt: skip


def broken(words: Sequence[str], pool: Words, rng: random.Random) -> Words:
    """A text of five words at least with some faults by the rules, and never the text itself; `pool` has words to take
    from."""
    found = list(words)
    while found == list(words):
        for _ in range(rng.randint(1, max(1, round(MOST * len(words))))):
            if len(found) > 3:
                rng.choice(RULES)(found, pool, rng)
    return found


def marks(clean: Sequence[str], bad: Sequence[str]) -> list[bool]:
    """Which words of `bad` (one at least) are at fault: those that `clean` lacks, and the one behind missing words."""
    found = [False] * len(bad)
    for kind, _, _, low, high in difflib.SequenceMatcher(None, clean, bad, autojunk=False).get_opcodes():
        if kind != "equal":
            for i in range(low, max(high, low + 1)):
                found[min(i, len(bad) - 1)] = True
    return found


@torch.no_grad()
def filled(model: object, canvases: Tensor, share: tuple[float, float], temperature: float, seed: int) -> Tensor:
    """Canvases (R, L) long with gaps filled in by a masked model, in one step.

    Gaps are stretches of one to five tokens that cover a share of the text, drawn anew for each.
    """
    codec, denoiser = model.codec, model.denoiser
    generator = torch.Generator().manual_seed(seed)
    out = canvases.clone()
    for start in range(0, len(canvases), 64):
        x = canvases[start : start + 64]
        free = (x != codec.end).cumprod(1).bool()
        free[:, 0] = False
        hidden = torch.zeros_like(free)
        wanted = share[0] + (share[1] - share[0]) * torch.rand(len(x), generator=generator)
        while bool((short := hidden.sum(1) < wanted * free.sum(1)).any()):
            first = (torch.rand(len(x), generator=generator) * free.sum(1)).long() + 1
            size = torch.randint(1, 6, (len(x),), generator=generator)
            place = torch.arange(x.shape[1])
            hidden |= (place >= first[:, None]) & (place < (first + size)[:, None]) & short[:, None] & free
        noised = x.masked_fill(hidden, denoiser.noise.mask)
        t = denoiser.noise.schedule.time(hidden.sum(1) / x.shape[1])
        law = denoiser(noised, t, hidden, torch.arange(len(x))) / temperature
        drawn = torch.multinomial(law.softmax(-1), 1, generator=generator)[:, 0]
        out[start : start + 64] = noised.masked_scatter(hidden, drawn)
    return out
