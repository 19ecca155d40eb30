"""Antibodies: heavy chains redesigned in part by published weights; every residue outside of the part is kept.

    case       written anew                    reward                                  judges
    cdr-h3     the third loop (IMGT 105-117)   charge, hydropathy, motifs that         mean log p(residue | the rest) of
               of 7 antibodies                 degrade (`benchmarks.rewards.residues`) Sapiens over what is written
    humanise   the framework of 4 murine       log p(human), AntiBERTy's own           the same; identity to human genes
               chains, their loops kept        classifier                              (`benchmarks.rewards.germline`)

The model is AntiBERTy, a masked language model of natural antibodies. Sapiens learned from human chains alone; neither
it nor the genes ever enter a reward. Row r is of antibody r mod 7 (4). Sequences are those of the public heavy chains
(INN lists; `r01` is the example of Sapiens' README). All three come in Python packages: `pip install
'iterref[antibodies]'` and `pip install --no-deps sapiens==1.0.5 abstar==0.8.0`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.frame.names import SPACED
from benchmarks.frame.task import Direction, Task
from benchmarks.rewards.germline import SOURCE, Germline, germline
from benchmarks.rewards.residues import developability
from iterref import packaged
from iterref.budget import Budget
from iterref.loading import load
from iterref.models.base import TextModel
from iterref.problem import Problem
from iterref.result import Result
from iterref.rewards.classifier import Classifier
from iterref.rewards.likelihood import SelfLikelihood
from iterref.rewards.text import TextReward
from iterref.samplers.base import Sampler
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

# Frameworks and loops in turn: FR1 CDR1 FR2 CDR2 FR3 CDR3 FR4, loops as IMGT numbers them.
CHAINS = {
    "trastuzumab": (
        "EVQLVESGGGLVQPGGSLRLSCAAS GFNIKDTY IHWVRQAPGKGLEWVAR IYPTNGYT RYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYC "
        "SRWGGDGFYAMDY WGQGTLVTVSS"
    ),
    "adalimumab": (
        "EVQLVESGGGLVQPGRSLRLSCAAS GFTFDDYA MHWVRQAPGKGLEWVSA ITWNSGHI DYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYC "
        "AKVSYLSTASSLDY WGQGTLVTVSS"
    ),
    "bevacizumab": (
        "EVQLVESGGGLVQPGGSLRLSCAAS GYTFTNYG MNWVRQAPGKGLEWVGW INTYTGEP TYAADFKRRFTFSLDTSKSTAYLQMNSLRAEDTAVYYC "
        "AKYPHYYGSSHWYFDV WGQGTLVTVSS"
    ),
    "pembrolizumab": (
        "QVQLVQSGVEVKKPGASVKVSCKAS GYTFTNYY MYWVRQAPGQGLEWMGG INPSNGGT NFNEKFKNRVTLTTDSSTTTAYMELKSLQFDDTAVYYC "
        "ARRDYRFDMGFDY WGQGTTVTVSS"
    ),
    "ipilimumab": (
        "QVQLVESGGGVVQPGRSLRLSCAAS GFTFSSYT MHWVRQAPGKGLEWVTF ISYDGNNK YYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAIYYC "
        "ARTGWLGPFDY WGQGTLVTVSS"
    ),
    "rituximab": (
        "QVQLQQPGAELVKPGASVKMSCKAS GYTFTSYN MHWVKQTPGRGLEWIGA IYPGNGDT SYNQKFKGKATLTADKSSSTAYMQLSSLTSEDSAVYYC "
        "ARSTYYGGDWYFNV WGAGTTVTVSA"
    ),
    "cetuximab": (
        "QVQLKQSGPGLVQPSQSLSITCTVS GFSLTNYG VHWVRQSPGKGLEWLGV IWSGGNT DYNTPFTSRLSINKDNSKSQVFFKMNSLQSNDTAIYYC "
        "ARALTYYDYEFAY WGQGTLVTVSA"
    ),
    "infliximab": (
        "EVKLEESGGGLVQPGGSMKLSCVAS GFIFSNHW MNWVRQSPEKGLEWVAE IRSKSINSAT HYAESVKGRFTISRDDSKSAVYLQMTDLRTEDTGVYYC "
        "SRNYYGSTYDY WGQGTTLTVSS"
    ),
    "r01": (
        "QVKLQESGAELARPGASVKLSCKAS GYTFTNYW MQWVKQRPGQGLDWIGA IYPGDGNT RYTHKFKGKATLTADKSSSTAYMQLSSLASEDSGVYYC "
        "ARGEGNYAWFAY WGQGTTVTVSS"
    ),
}
# Of a case: the chains, which of their pieces are written anew, and the grid steps of a plain run.
CASES: dict[str, tuple[tuple[str, ...], tuple[int, ...], int]] = {
    "cdr-h3": (tuple(CHAINS)[:7], (5,), 8),
    "humanise": (("rituximab", "cetuximab", "infliximab", "r01"), (0, 2, 4, 6), 16),
}
GROUPS, OWN = 8, 4  # passes in which Sapiens judges what was written, and the model itself, which is larger
MOST = 256  # sequences of one call of the denoiser
MEASURES: dict[str, Direction] = {
    "reward": "higher",
    "judge": "higher",  # nats a residue
    "germline": "higher",  # of `humanise`: the share of framework residues that are those of the nearest human genes
    "solved": "higher",  # everything that is asked for: reward 0, or human rather than not
    "likelihood": "higher",  # mean log p(residue | the rest) of the model itself, nats
    "identity": "neither",  # the share of what was written anew that is as it was
    "different": "higher",  # texts of one antibody that no other of its rows has
}


@dataclass(frozen=True)
class Antibodies(Task):
    """The task: `cases`, the weights' precision `dtype`, the `alpha` of each case, and a `model` and a `judged_by` that
    are others than AntiBERTy and Sapiens."""

    cases: tuple[str, ...] = tuple(CASES)
    dtype: str = "float32"
    alphas: tuple[tuple[str, float], ...] = (("cdr-h3", 0.25), ("humanise", 0.5))
    model: str | Path = "antiberty"
    judged_by: str | Path = "sapiens-vh"
    steps: int | None = None
    name = "antibodies"
    main = "judge"
    beside = ("germline",)
    measures = MEASURES
    samples = 64

    def plain(self, case: str) -> int:
        """The NFE of one plain run."""
        return self.steps or CASES[case][2]

    def methods(self, case: str) -> list[str]:
        """The methods that are compared."""
        half = f"steps={self.plain(case) // 2}"
        return [
            f"ancestral:steps={self.plain(case)}", f"best_of_n:{half}", f"smc:{half},objective=maximise",
            f"svdd:{half},objective=maximise", f"select_refine:{half}", SPACED,
            f"{SPACED},chains=4,decisions=1",  # starts spread over modes
        ]  # fmt: skip

    def ours(self, case: str) -> str:
        """The method that claims are about: the default."""
        return SPACED

    def texts(self, case: str, rows: Tensor) -> list[str]:
        """The chain of every row (R,), as it is known."""
        names = CASES[case][0]
        return ["".join(CHAINS[names[row % len(names)]].split()) for row in rows.tolist()]

    def free(self, case: str, rows: Tensor, length: int) -> Tensor:
        """What is written anew, (R, L) bool: one position a residue."""
        names, open_, _ = CASES[case]
        free = torch.zeros(len(rows), length, dtype=torch.bool)
        for place, row in enumerate(rows.tolist()):
            ends = [0, *accumulate(map(len, CHAINS[names[row % len(names)]].split()))]
            for piece in open_:
                free[place, ends[piece] : ends[piece + 1]] = True
        return free

    def problem(self, case: str, rows: Tensor) -> Problem:
        """The problem of rows (R,) long."""
        model = self._network
        denoiser, _, _ = model.prepare([""] * len(rows))
        canvas = model.encode(self.texts(case, rows))
        free = self.free(case, rows, canvas.shape[1])
        regions = [(int(one[0]), int(one[-1]) + 1) for one in (line.nonzero()[:, 0] for line in free)]
        reward = TextReward(self._reward(case), model.decode, columns={"region": regions})
        return Problem(denoiser, reward, canvas, free, alpha=dict(self.alphas)[case], max_rows=MOST)

    def sample(self, case: str, method: str | Sampler, budget: Budget | None, rows: Tensor, seed: int) -> Result:
        """A run of rows (R,) long; a row's text depends on (seed, its number) alone, up to the rounding of `dtype`."""
        problem, decode = self.problem(self.known(case), rows), self._network.decode
        return sample(sampler_from_string(method), problem, seed=seed, rows=rows, budget=budget, decode=decode)

    def judge(self, case: str, result: Result, rows: Tensor) -> dict[str, np.ndarray]:
        """Measures of every chain, (R,) float64 each. Raises `ValueError` for a residue that was to be kept."""
        texts, known = result.texts or [], self.texts(case, rows)
        free = self.free(case, rows, result.tokens.shape[1])
        same = np.array([[a == b for a, b in zip(*two, strict=True)] + [True] * (free.shape[1] - len(two[0]))
                         for two in zip(texts, known, strict=True)])  # fmt: skip
        if not same[~free.numpy()].all():
            raise ValueError(f"{case}: a residue that is to be kept was changed")
        reward = result.rewards.cpu().numpy().astype(np.float64)
        written = ["".join(compress(*one)) for one in zip(texts, free.tolist(), strict=True)]
        return {
            "reward": reward,
            "judge": _likelihood(self._judge, texts, free, GROUPS),
            **({"germline": self._germline(written)} if case == "humanise" else {}),
            "solved": (reward >= (0.0 if case == "cdr-h3" else -np.log(2))).astype(np.float64),
            "likelihood": _likelihood(self._network, texts, free, OWN),
            "identity": (same & free.numpy()).sum(1) / free.numpy().sum(1),
        }

    def whole(self, case: str, result: Result, rows: Tensor) -> dict[str, float]:
        """The share of chains that no other row of the same antibody has."""
        texts, names = result.texts or [], self.texts(case, rows)
        pairs = list(zip(names, texts, strict=True))
        return {"different": len(set(pairs)) / len(pairs)}

    def _reward(self, case: str) -> Callable[..., Any]:
        return developability if case == "cdr-h3" else self._human

    # A network remembers one text at most: what a run was told before is the run's own business, and so is its time.
    @cached_property
    def _human(self) -> Classifier:
        return Classifier("antiberty-species", "Human", limit=1, dtype=self.dtype)

    @cached_property
    def _network(self) -> TextModel:
        return load(self.model, length=LONGEST, dtype=self.dtype)

    @cached_property
    def _germline(self) -> Germline:
        return germline()

    @cached_property
    def _judge(self) -> TextModel:
        return load(self.judged_by, length=LONGEST)


LONGEST = max(len("".join(chain.split())) for chain in CHAINS.values())


def _likelihood(model: TextModel, texts: list[str], free: Tensor, groups: int) -> np.ndarray:
    """Mean log p(residue | the rest) over the free positions (R, L) of chains under a masked model, (R,) float64."""
    denoiser, canvas, _ = model.prepare([""] * len(texts))
    judge = SelfLikelihood(denoiser, canvas, free, groups=groups)
    return judge(model.encode(texts), torch.arange(len(texts))).cpu().numpy()


def task(
    *,
    model: str | Path = Antibodies.model,
    judge: str | Path = Antibodies.judged_by,
    data: None = None,
    dtype: str = Antibodies.dtype,
    steps: int | None = None,
    quick: bool = False,
) -> Antibodies:
    """The task on AntiBERTy, or on another masked `model` of one letter a residue that `iterref.load` reads, judged by
    another `judge`. `dtype` is the precision of the model's weights, and of the classifier's: "bfloat16" is several
    times faster where a processor has matrices of it. `steps` are the grid steps of a plain run. `quick` has the first
    case alone, of 4 steps.

    Raises `MissingExtra` where a package is not installed, before anything runs, and `ValueError` for `data` or bad
    numbers.
    """
    if data is not None:
        raise ValueError("antibodies has its own chains: leave data= out")
    if steps is not None and steps < 2:
        raise ValueError(f"antibodies needs at least 2 steps, got {steps}")
    made = Antibodies(("cdr-h3",) if quick else tuple(CASES), dtype, model=model, judged_by=judge,
                      steps=steps if steps is not None else 4 if quick else None)  # fmt: skip
    for name in (model, judge, "antiberty-species"):
        packaged.located(name)  # refuses a package that is not installed
    if "humanise" in made.cases:
        SOURCE.folder()
    return made
