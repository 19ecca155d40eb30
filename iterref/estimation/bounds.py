"""Bounds: what stops growing with the batch, because the library's own constants bound it.

    laws remembered between calls   at most `evaluation.KEEP` numbers       probes have room for less, in proportion
    blocks of a draw                at most `random.BLOCK` numbers          measured, on laws that take no memory

Small probes are below both; the run that they stand for may be above.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from iterref import evaluation, random
from iterref.estimation.footprint import Footprint
from iterref.estimation.probe import Seen
from iterref.problem import Problem
from iterref.random import Rng

NUMBER = 4  # bytes of a log-probability


def kept(problem: Problem, seen: Seen, called: int, share: float, batch: float) -> float:
    """Bytes of remembered laws that probes of `called` rows a call cannot show, with a `share` of the room there is.

    Where one call's laws fit into the room, but not into the probe's: those of the last question for which there is
    room, and those of the question before until that ends. The whole run is `batch` times what was seen.
    """
    room, vocab = evaluation.KEEP[problem.canvas.is_cuda], problem.noise.vocab
    row = seen.cells / seen.rows * vocab
    whole, calls = seen.cells * vocab * batch, int(room // max(1.0, row * seen.limit))
    shown = row * called <= room * share or whole <= room
    if shown or not (problem.remember and problem.denoiser.time_independent):
        return 0.0
    return 2.0 * NUMBER * calls * row * seen.limit


@dataclass(frozen=True)
class Drawing:
    """How far the memory of draws can grow from a probe to the whole run, whose blocks are full.

    The laws of a call have `called` cells and those of a question `asked` in the probe, and `most` at most in the run.
    """

    vocab: int
    device: torch.device
    called: int
    asked: int
    most: int
    found: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem, first: Seen, large: Seen, share: float) -> Drawing:
        """From the `large` probe to a run whose questions are `share` times as large as the `first` one's."""
        full = 2 * random.BLOCK[problem.canvas.is_cuda] / problem.noise.vocab
        most = min(first.cells * share, max(first.cells / first.rows * first.limit, full))
        called = large.cells * min(1.0, large.limit / large.rows)
        return cls(problem.noise.vocab, problem.canvas.device, round(called), large.cells, round(most))

    def factor(self, draws: int, inside: bool) -> float:
        """Of so many draws a cell, from the laws of a call (`inside`) or of a whole question."""
        now = self.called if inside else self.asked
        return max(1.0, self._held(self.most, max(1, draws)) / self._held(now, max(1, draws)))

    def _held(self, cells: int, draws: int) -> int:
        """Bytes that draws hold besides their laws."""
        cells = max(2, cells)
        if (cells, draws) not in self.found:
            laws = torch.zeros(1, self.vocab, device=self.device).expand(cells, -1)
            footprint, rng = Footprint(self.device), Rng.seeded(0, cells, self.device)
            with footprint, torch.inference_mode():
                rng.categorical(laws, torch.ones(cells, 1, dtype=torch.bool, device=self.device), draws)
            self.found[cells, draws] = footprint.peak
        return self.found[cells, draws]
