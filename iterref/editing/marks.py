"""Marks: the regions of a text that are to be written anew, from characters to tokens.

    "police [arrest two men] in london"   ->   text "police arrest two men in london", region (7, 21)

A token belongs to a region when any of its characters does. Where it lies in the text is found with the model's own
`encode` and `decode` alone: its reading of the text before a mark says where the mark stands in that of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from rapidfuzz.distance import Postfix, Prefix
from torch import Tensor

from iterref.editing.drift import Allowing
from iterref.models.base import MASKS, TextModel
from iterref.rewards.base import Reward

Marks = tuple[str, str]
Reading = Callable[[str], str]
BRACKETS: Marks = ("[", "]")
ESCAPE = "\\"
CLOSED, OPEN, BEGIN = range(3)  # positions outside of all regions, in one, and the first in one
WORDS = re.compile(r"\s*\S+(?=\s)")


@dataclass(frozen=True)
class Marked:
    """A text without its marks, and where the marked characters were: (first, one after the last), in order. `outside`
    are the strings before, between and behind the regions as they were written; `masks` are the numbers of the regions
    that were masks, of one token each."""

    text: str
    regions: tuple[tuple[int, int], ...]
    outside: tuple[str, ...] = ()
    masks: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Regions:
    """Canvases (B, L) with the regions' positions `open` (B, L) bool, as many as they are to have, and the first of
    each `begins` (B, L). All other tokens are the text's own; `frames` (B) says how they read, None without regions."""

    canvas: Tensor
    open: Tensor
    begins: Tensor
    frames: tuple[Frame | None, ...]


@dataclass(frozen=True)
class Frame:
    """What stands around a row's regions: `kept`, as the model reads it, and `written`, as the user wrote it; `blanks`
    are those that the user marked at a region's ends. `apart` says of every region whether a blank parts it from the
    text before it, and `parted` how it begins: with a blank (1), without (0), or as it likes (2)."""

    kept: tuple[str, ...]
    written: tuple[str, ...]
    blanks: tuple[tuple[str, str], ...]
    apart: tuple[bool, ...]
    parted: tuple[int, ...] = ()

    def regions(self, text: str) -> list[str] | None:
        """What a text has in the regions; None where it does not hold the rest as it was, or no blank where one parts
        a region from it."""
        found, at = list[str](), 0
        for number, piece in enumerate(self.kept):
            start = self._find(text, number, at) if number else 0
            if start < 0 or not text.startswith(piece, start):
                return None
            found.append(text[at:start])
            at = start + len(piece)
            if number < len(self.apart) and self.apart[number] and not text[at : at + 1].isspace():
                return None
        return found[1:]

    def _find(self, text: str, number: int, at: int) -> int:
        """Where a text has the string behind a region that begins `at`; below 0 where it has not."""
        piece = self.kept[number]
        if number == len(self.apart):
            return len(text) - len(piece) if len(text) - len(piece) >= at else -1
        if not piece:  # two regions side by side, told apart by a blank if one is written between them
            words = WORDS.match(text, at) if self.written[number] else None
            return words.end() if words else at
        start = text.find(piece, at)
        while start >= 0 and self.apart[number] and not text[start + len(piece) :][:1].isspace():
            start = text.find(piece, start + 1)
        return start

    def compose(self, text: str) -> str:
        """A text with its regions between the strings that the user wrote; the text itself where it has none, or where
        these stand in it already: then it is the very text that was judged, blanks at the regions' ends included."""
        found = self.regions(text)
        if found is None or _standing(self.written, text):
            return text
        parts = [before + inside.strip() + after for (before, after), inside in zip(self.blanks, found, strict=True)]
        return self.written[0] + "".join(map("".join, zip(parts, self.written[1:], strict=True)))


def _standing(written: Sequence[str], text: str) -> bool:
    """Whether a text begins with the first of some strings, ends with the last, and has the others between, in order.
    """
    first, *between, last = written
    at = len(first)
    for piece in between:
        at = max(at, text.find(piece, at)) + len(piece)
        if not text.endswith(piece, 0, at):
            return False
    return text.startswith(first) and text.endswith(last) and at + len(last) <= len(text)


class Around(Allowing):
    """A reward where a row's text holds what stands around its regions: a token that joins its neighbour would change
    text that was not marked."""

    def __init__(self, reward: Reward, decode: Callable[[Tensor], list[str]], frames: Sequence[Frame | None]) -> None:
        super().__init__(reward)
        self.decode, self.frames = decode, frames

    def allowed(self, tokens: Tensor, rows: Tensor) -> Tensor:
        pairs = zip(rows.tolist(), self.decode(tokens), strict=True)
        kept = [(frame := self.frames[row]) is None or frame.regions(text) is not None for row, text in pairs]
        return torch.tensor(kept, device=tokens.device)


def read(marked: str, row: int, marks: Marks = BRACKETS, masks: Sequence[str] = MASKS) -> Marked:
    """A marked text read: `marks` open and close a region, a backslash before a mark makes it a literal one. Each of
    `masks`, which stand for one token, is a region too; the blank before it belongs to the text around it. Raises
    `ValueError`, naming the row, for marks that do not pair up, and for text that marks nothing."""
    opening, closing = marks
    if not opening or not closing or opening == closing:
        raise ValueError(f"marks are two different strings, one that opens and one that closes, got {marks!r}")
    text, regions, start, at = "", list[tuple[int, int]](), -1, 0
    outside, holes, since = list[str](), set[int](), 0
    while at < len(marked):
        escaped = next((mark for mark in (*masks, *marks) if marked.startswith(ESCAPE + mark, at)), "")
        mask = next((mask for mask in masks if start < 0 and marked.startswith(mask, at)), "")
        if escaped:
            text, at = text + escaped, at + len(ESCAPE + escaped)
        elif mask:
            outside.append(text[since:])
            parted = at + len(mask) == len(marked) or marked[at + len(mask)].isspace()
            text = text[:-1] if text[-1:] == " " and len(text) > since and parted else text
            holes.add(len(regions))
            regions.append((len(text), len(text)))
            since, at = len(text), at + len(mask)
        elif marked.startswith(opening, at):
            if start >= 0:
                raise ValueError(f"text {row} opens a region inside another one: close it first, or write \\{opening}")
            outside.append(text[since:])
            start, at = len(text), at + len(opening)
        elif marked.startswith(closing, at):
            if start < 0:
                raise ValueError(f"text {row} closes a region that is not open: open it, or write \\{closing}")
            regions.append((start, len(text)))
            since, start, at = len(text), -1, at + len(closing)
        else:
            text, at = text + marked[at], at + 1
    if start >= 0:
        raise ValueError(f"text {row} leaves a region open: close it with {closing!r}, or write \\{opening}")
    if not regions:
        raise ValueError(f"text {row} marks nothing: put {opening}{closing} around what is to be written anew")
    return Marked(text, tuple(regions), (*outside, text[since:]), frozenset(holes))


def place(
    model: TextModel, blank: Tensor, tokens: Tensor, lengths: Sequence[int], texts: Sequence[Marked | None],
    sizes: Sequence[Sequence[int] | None] = (None,), begins: Sequence[int] | None = None,
) -> list[Regions]:  # fmt: skip
    """The regions of marked texts in their canvases (B, L), whose texts take up `lengths` positions; None marks none.
    Nothing is put in before the positions `begins`, where the rows' start tokens are. `blank` (L,) is the canvas of the
    empty text. `sizes` are layouts, each made: with None a region keeps its number of tokens; with numbers the k-th
    region gets the k-th of them, what follows moves, and an empty region is a place to insert. Raises `ValueError`,
    naming the row, for a marked text that is not the row's own, an empty region without a size, or no room left."""
    pieces = [
        piece
        for marked in filter(None, texts)
        for start, end in marked.regions
        for piece in (marked.text[:start], marked.text[:end], marked.text[start:end], marked.text[end:])
    ]
    reading = _readings(model, [*pieces, *(marked.text for marked in filter(None, texts))])
    made: list[list[tuple[list[int], list[int]]]] = [[] for _ in sizes]
    frames = list[Frame | None]()
    for row, (ids, marked) in enumerate(zip(tokens.tolist(), texts, strict=True)):
        if marked is None:
            for layout in made:
                layout.append((ids, [CLOSED] * len(ids)))
            frames.append(None)
            continue
        begin = 0 if begins is None else begins[row]
        size = max(begin, lengths[row])
        ends = _ends(model, blank, tokens[row], size)
        whole = model.decode(tokens[row : row + 1])[0]
        if marked.text != whole and reading(marked.text) != whole:
            raise ValueError(f"text {row} reads {marked.text!r} without its marks, the row {whole!r}: mark that text")
        spans = [_tokens(reading, marked, region, whole, ends, begin) for region in marked.regions]
        frames.append(_frame(reading, marked, spans, whole, ends, row))
        for layout, given in zip(made, sizes, strict=True):
            own = [1 if k in marked.masks else None if given is None else given[k] for k in range(len(spans))]
            layout.append(_laid_out(ids[:size], spans, blank.tolist(), own, row))
    device = tokens.device
    tensors = ([torch.tensor(part, device=device) for part in zip(*layout, strict=True)] for layout in made)
    return [Regions(canvas, free != CLOSED, free == BEGIN, tuple(frames)) for canvas, free in tensors]


def _frame(
    reading: Reading, marked: Marked, spans: Sequence[tuple[int, int]], whole: str, ends: Sequence[int], row: int
) -> Frame:
    """What stands around a row's regions. Raises `ValueError` for a mark that cuts a token in two: what it leaves out
    of the region would change with it."""
    for (start, end), (first, last) in zip(marked.regions, spans, strict=True):
        outside = whole[: ends[first]], whole[ends[last] :]
        read = reading(marked.text[:start]), reading(marked.text[end:])
        if ["".join(text.split()) for text in outside] != ["".join(text.split()) for text in read]:
            region, cut = marked.text[start:end], whole[ends[first] : ends[last]].strip()
            told = f"text {row}: the region {region!r} cuts {cut!r} in two, which the model reads as one"
            raise ValueError(f"{told}: mark all of it, or nothing of it")
    edges = [0, *(ends[at] for span in spans for at in span), len(whole)]
    kept = tuple(whole[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))
    inside = [marked.text[start:end] for start, end in marked.regions]
    blanks = tuple((text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :] if text.strip() else "")
                   for text in inside)  # fmt: skip
    begins = [ends[first] for first, _ in spans]
    apart = tuple(bool(here) and whole[at : at + 1].isspace() for here, at in zip(kept, begins, strict=False))
    pairs = zip(kept[:-1], marked.outside[:-1], strict=True)
    parted = [int(out[-1:].isspace() and not here[-1:].isspace()) if here else 2 for here, out in pairs]
    for number, out in enumerate(marked.outside[1:-1], 1):
        parted[number] = 1 if not kept[number] and out else parted[number]  # a blank alone is between two regions
    return Frame(kept, marked.outside, blanks, apart, tuple(parted))


def _readings(model: TextModel, texts: Iterable[str]) -> Reading:
    """Texts as the model reads them, decode(encode(text)), all asked for at once; "" for any other."""
    worth, read = sorted({text for text in texts if text.strip()}), dict[str, str]()
    try:
        read = dict(zip(worth, model.decode(model.encode(worth)) if worth else (), strict=True))
    except ValueError:  # part of a text may be none by itself: half of a joined sign
        for text in worth:
            with suppress(ValueError):
                read[text] = model.decode(model.encode([text]))[0]
    return lambda text: read.get(text, "")


def _ends(model: TextModel, blank: Tensor, ids: Tensor, length: int) -> list[int]:
    """Where each of the text's tokens ends in the decoded text, 0 first: one decoded text a token."""
    upto = torch.arange(len(ids), device=ids.device) < torch.arange(length + 1, device=ids.device)[:, None]
    return [len(text) for text in model.decode(torch.where(upto, ids, blank))]


def _tokens(
    reading: Reading, marked: Marked, region: tuple[int, int], whole: str, ends: Sequence[int], begin: int
) -> tuple[int, int]:
    """The tokens of a region, as (first, one after the last) of the row's. Before a region the text reads as the
    beginning of the whole, behind it as the end. Where the reading joins both sides of a mark (a number that becomes
    one sign) the two overlap, and what lies between them is the region."""
    before, upto, after = marked.text[: region[0]], marked.text[: region[1]], marked.text[region[1] :]
    left, shared = int(Prefix.similarity(reading(before), whole)), int(Postfix.similarity(reading(after), whole))
    behind = len(whole) - shared
    right = len(reading(upto)) if whole.startswith(reading(upto)) else behind
    start, end = _trimmed(whole, left, right)
    if start >= end and (left > behind or reading(marked.text[region[0] : region[1]])):  # it is within one token
        start, end = _trimmed(whole, max(min(left, behind) - 1, 0), max(left, right))
    if start >= end:  # nothing was marked: a place between two tokens
        first = max(begin, next((k for k, end in enumerate(ends) if end >= left), len(ends) - 1))
        return first, first
    touched = [k for k in range(len(ends) - 1) if ends[k] < end and ends[k + 1] > start]
    return touched[0], touched[-1] + 1


def _laid_out(
    ids: list[int], spans: Sequence[tuple[int, int]], blank: list[int], sizes: Sequence[int | None], row: int
) -> tuple[list[int], list[int]]:
    """One row's canvas, and what its positions are to the regions."""
    new, free, at = list[int](), list[int](), 0
    for (first, last), length in zip(spans, sizes, strict=True):
        if length is None and first == last:
            raise ValueError(f"text {row} has an empty region: say how many tokens it is to have, length= or --tokens")
        region = ids[first:last] if length is None else [blank[-1]] * length
        new += ids[at:first] + region
        free += [CLOSED] * (first - at) + [BEGIN] + [OPEN] * (len(region) - 1)
        at = last
    new += ids[at:]
    if len(new) > len(blank):
        told = f"text {row} would have {len(new)} tokens and the canvas holds {len(blank)}"
        raise ValueError(f"{told}: give a region fewer, by length= or --tokens")
    return new + blank[len(new) :], free + [CLOSED] * (len(blank) - len(free))


def _trimmed(whole: str, start: int, end: int) -> tuple[int, int]:
    """The region without the blanks at its ends, which belong to the words around it."""
    inner = whole[start:end]
    return start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip())
