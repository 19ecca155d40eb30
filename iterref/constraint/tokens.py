"""From bytes to tokens: an automaton of strings read by a vocabulary, with the end and the filler behind a text.

    delta(q, v) = delta(... delta(q, b_1) ..., b_n)          for the bytes b_1 ... b_n of every token v, all at once

Which tokens are one class is found by digests of their steps, so that the table of all states and tokens is never held.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from iterref.constraint.automaton import Automaton
from iterref.constraint.spelling import Spelling
from iterref.constraint.strings import NOWHERE, Strings, union

CELLS = 2**23  # states times tokens that are walked at once


def lift(languages: Sequence[Strings], spelling: Spelling, ends: Sequence[int], fill: int) -> Automaton:
    """The automaton of canvases: a text of one of the `languages`, which have a start each, then one of the tokens
    `ends` and the filler (-1 for none), or the end of the canvas."""
    step, final, starts = union([spelling.strings(language) for language in languages])
    states, vocab = len(step), len(spelling.inside)
    behind = {*ends, fill} - {-1}
    inside = [None if token in behind else piece for token, piece in enumerate(spelling.inside)]
    first = [None if token in behind else piece for token, piece in enumerate(spelling.first)]
    fresh = inside != first
    rows = np.arange(states)
    if fresh:  # a start that nothing comes back to, with the spelling of a first token
        begun = [states + at for at in range(len(starts))]
        columns = [(step, rows, inside), (step, np.array(starts), first)]
        ending = np.concatenate([final, final[starts]])
    else:
        begun, columns, ending = starts, [(step, rows, inside)], final
    digest = np.zeros((vocab, 2), np.uint64)
    seeds = np.random.default_rng(0)
    for table, some, pieces in columns:
        for part, walked in _walks(table, some, pieces):
            by = seeds.integers(1, 2**63, (len(part), 2), dtype=np.uint64) | np.uint64(1)
            digest += (walked.T + 2).astype(np.uint64) @ by
    for token in behind:  # as many as matter to the states of texts and to the one behind them
        digest[token] = (1 if token in ends else 0, 1)
    _, kinds, classes = np.unique(digest, axis=0, return_index=True, return_inverse=True)
    chosen = [
        np.concatenate([walked for _, walked in _walks(table, some, [pieces[kind] for kind in kinds])])
        for table, some, pieces in columns
    ]
    end = len(ending)
    whole = np.concatenate([*chosen, np.full((1, len(kinds)), NOWHERE)])
    for column, kind in enumerate(kinds.tolist()):
        if kind in behind:
            whole[:, column] = np.where(np.append(ending, False), end, NOWHERE) if kind in ends else NOWHERE
            whole[end, column] = end
    moves = torch.from_numpy(whole.astype(np.int64))
    stops = torch.from_numpy(np.append(ending, True))
    return Automaton.of_columns(torch.from_numpy(classes.reshape(-1)), moves, stops, tuple(begun))


def _walks(step: np.ndarray, states: np.ndarray, pieces: Sequence[bytes | None]):  # type: ignore[no-untyped-def]
    """Of some states (K,) at a time, where every token leads from each, (K, V): the states, and the walk."""
    sizes = np.array([-1 if piece is None else len(piece) for piece in pieces])
    order = np.argsort(-sizes, kind="stable")
    table = np.zeros((len(pieces), max(1, int(sizes.max(initial=0)))), np.uint8)
    for token, piece in enumerate(pieces):
        if piece:
            table[token, : len(piece)] = np.frombuffer(piece, np.uint8)
    table, longest = table[order], np.sort(-sizes)
    moves = np.concatenate([step, np.full((1, 256), NOWHERE, step.dtype)]).astype(np.int32)  # the last is nowhere
    silent = sizes[order] < 1
    for part in np.array_split(states, max(1, len(states) * len(pieces) // CELLS)):
        now = np.repeat(part.astype(np.int32)[:, None], len(pieces), 1)
        for at in range(table.shape[1]):
            count = int(np.searchsorted(longest, -at, side="left"))  # tokens that are longer
            now[:, :count] = moves[now[:, :count], table[:count, at]]
        now[:, silent] = NOWHERE
        back = np.empty_like(now)
        back[:, order] = now
        yield part, back
