"""Summarization: documents to summaries, judged by references that no method sees.

    case                reward                                                     drafts
    consensus           mean ROUGE-L with the model's own drafts                   a pool, paid from the budget
    source              ROUGE-L precision against the document                     none
    reference           ROUGE-L against the reference: the upper bound             none
    consensus+length,   the same, and minus the share by which a text has fewer    as above
    source+length       than 8 words or more than 12
    length              minus the words too many or too few, as a share of the reference's     none
    length-6, -8, -12   the same, of so many words
    estimate            ROUGE-L as `learned-rouge` estimates it; no method sees the true one   none

Full stops and the like are no words here. Beside the reward stand `met`, whether a text has the length asked for, its
log-likelihood under the model and, a token, under `prose`.

A pool is small where a budget is small, and the agreement with few drafts is easily searched to death. So `reward` is
measured with a pool that is apart, the same for all methods, budgets and seeds, and charged to none; `seen` is what the
search itself saw. A search that fits its pool and not the model shows as a gap between them.

A method is written as in `iterref.registry`, with four additions: METHOD@T runs at the temperature T, exact+METHOD has
the length as a constraint, drafts+METHOD refines the draft that agrees most with the others, and `mbr` returns that
draft, the whole budget spent on drafts (minimum Bayes risk decoding: Kumar and Byrne 2004; Eikema and Aziz 2022,
arXiv:2108.04718).

A plain run is 16 NFE, about where `tiny-news` stops to gain by more steps, and with a longer canvas as many times more
as that is longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import isinf
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

import iterref
from benchmarks.diversity import copied
from benchmarks.frame.names import SPANS
from benchmarks.frame.task import Direction, Task
from benchmarks.records import SUMMARY, Records, read
from benchmarks.rewards.learned_rouge import LearnedRouge
from benchmarks.rewards.lengths import Wanted, as_reference, lengths, of_words
from benchmarks.summaries import EXACT, FROM_DRAFTS, MBR, TEMPERATURE, Written, of_lengths
from iterref.budget import Budget, Cost, most
from iterref.drafts import OfPrompts, OwnDrafts
from iterref.generation import draw_drafts, generate
from iterref.models.base import TextModel
from iterref.result import Result
from iterref.rewards.calling import call
from iterref.rewards.consensus import Consensus
from iterref.rewards.lexical import Lexical
from iterref.rewards.perplexity import Perplexity
from iterref.rewards.rouge import Rouge, report_rouge_rows
from iterref.samplers.strings import sampler_from_string

BUNDLED = Path(iterref.__file__).parent / "data" / "news.jsonl"
LENGTHS = ("length", "length-6", "length-8", "length-12")
CASES = ("consensus", "source", "reference", "consensus+length", "source+length", *LENGTHS, "estimate")
ANSWERED = ("reference", "length")  # cases that read the reference
ROUGES = ("rouge1", "rouge2", "rougeL")
PLAIN, CANVAS = 16, 28  # NFE of a plain run, and the positions of the canvas for which they are meant
ALPHA = 0.01
SHARP = 0.1  # the temperature that suits unguided sampling in random order best
BAND = Lexical(words=(8, 12), hard=False)
# The pool: a share of the budget, in plain samples of half a plain run; as many drafts where nothing bounds it.
SHARE, DRAFTS = 2 / 3, 16
JUDGE_SEED = 918_273_645  # of the pool that judges; runs have small seeds
MOVES = (0, 1, 2, 3, 5, 10)  # at every grid time
# Whole decodings, the surest token first, redrawn from a step on; `SPANS` are the spans that copy best.
PATH = "trajectory:order=confidence,tries=1,steps={steps},span=0.75+1.0,objective=maximise"
PICKED = "iterref:steps=0,moves=0,objective=maximise"  # a text to start from, and nothing done to it
LONGEST = 8  # how many documents, the longest ones, are tried at the door


class Summarization(Task):
    """The task: a text model and records. See the module's first lines for what is measured.

    Row n is about document n, and again from the first where there are more rows than documents. Without references the
    case `reference` and the ROUGE figures are left out, and `reward` is the main figure.
    """

    name = "summarization"
    cases: tuple[str, ...] = CASES

    def __init__(self, model: TextModel, records: Records, quick: bool = False, keeps: bool = True) -> None:
        self.model, self.records, self._quick, self.keeps = model, records, quick, keeps
        self._plain = (PLAIN // 2 if quick else PLAIN) * max(1, round(model.length / CANVAS))
        told = records.references is not None
        self.cases = CASES[:1] if quick else tuple(case for case in CASES if told or case not in ANSWERED)
        self.main = "rougeL" if told else "reward"
        self.measures: dict[str, Direction] = {"reward": "higher"}
        self.measures |= {kind: "higher" for kind in ROUGES if told}
        self.measures |= {"words": "neither", "copy": "neither", "seen": "neither", "distinct": "higher"}
        self.measures |= dict.fromkeys(("met", "log_likelihood", "prose", "j"), "higher")
        self._judges: dict[int, list[str]] = {}

    def plain(self, case: str) -> int:
        """The NFE of one plain run."""
        self.known(case)
        return self._plain

    def methods(self, case: str) -> list[str]:
        """What is compared unless somebody says otherwise: plain sampling first, `iterref` last."""
        steps = f"steps={self.drafts.steps}"
        best = f"{steps},objective=maximise"  # all of them are asked for the best text that they saw
        searching = [f"best_of_n:{steps}", f"smc:{best}", f"svdd:{best}"]
        if self._quick:
            return ["ancestral", *searching, self.ours(case)]
        plain = ["ancestral", f"ancestral@{SHARP}", "ancestral:order=confidence", "remdm"]
        searching += [f"best_of_n:{steps},order=confidence", f"smc:{best},order=confidence", f"select_refine:{steps}"]
        pooled = [MBR, FROM_DRAFTS + SPANS] if "consensus" in self.known(case) else []
        searching += [f"smc:{best},order=confidence,x0_samples=16", "beam", PATH.format(steps=self.drafts.steps)]
        if case in LENGTHS:
            searching += [f"{EXACT}ancestral:order=confidence", f"{EXACT}auto"]
        return [*plain, *searching, *pooled, SPANS, self.ours(case)]

    def ours(self, case: str) -> str:
        """The method that claims are about."""
        return "auto"

    def tables(self, runs: Path) -> Mapping[str, str]:
        """What asking for the reference's length comes to, where it was asked for."""
        table = of_lengths(runs, LENGTHS[:1])
        return {f"{runs.parent.name} lengths": table} if table else {}

    def check(self, method: str) -> None:
        """A method as this task writes it."""
        written = Written.read(method)
        if written.name != MBR:
            sampler_from_string(written.method)

    def moves(self, case: str) -> list[tuple[int, str]]:
        """Methods with 0, 1, 2, 3, 5 and 10 refinement moves at every grid time of a draft that is not guided itself.

        They run as they stand, without a budget: with 0 moves they are plain sampling.
        """
        self.known(case)
        steps = self.drafts.steps
        written = f"{SPANS},reward_draft=false,steps={steps},early={1 - 1 / steps:g}"
        return [(moves, f"{written},moves={steps * moves}") for moves in MOVES]

    @property
    def drafts(self) -> OwnDrafts:
        """The pool of a run that nothing bounds."""
        return OwnDrafts(4 if self._quick else DRAFTS, self._plain // 2, temperature=TEMPERATURE)

    def sample(
        self,
        case: str,
        method: str,
        budget: Budget | None,
        rows: Tensor,
        seed: int,
        start: Literal["drafts"] | None = None,
    ) -> Result:
        """Runs a method on rows (R,) long, which name documents and random streams; as it stands without a budget.

        Unguided methods draw no pool: their reward is the judge's. Raises `ValueError` for a method that cannot be
        read, needs drafts where the reward has none, or does not fit the budget.
        """
        written, pool = Written.read(method, start), self._pool(budget)
        sampler, limit = written.method, budget
        if written.name == MBR:
            pool, sampler, limit = self._all_drafts(budget), PICKED, None
        if written.drafts and "consensus" not in self.known(case):
            raise ValueError(f"{method} needs drafts, and the case {case!r} has none: take it with a consensus")
        if written.exact and case not in LENGTHS:
            raise ValueError(f"{method} asks for a length, and the case {case!r} has none: leave out {EXACT}")
        reward = self._judge(case, rows) if written.unguided else self._reward(case, pool)
        documents, columns = self._asked(rows)
        result = generate(
            self.model, documents, reward=reward, sampler=sampler, alpha=ALPHA, budget=limit, seed=seed, rows=rows,
            temperature=written.temperature, start="drafts" if written.drafts else None, columns=columns,
            log_likelihood=True, constraint=self._lengths(case, columns) if written.exact else None,
        )  # fmt: skip
        if written.name == MBR:
            result = replace(result, sampler=sampler_from_string(f"best_of_n:n={pool.n},steps={pool.steps}"))
        return result

    def judge(self, case: str, result: Result, rows: Tensor) -> dict[str, np.ndarray]:
        """Of every sample, (R,) float64 each: the measures but `distinct`; `seen` where a pool was searched under."""
        texts = result.texts or []
        documents, columns = self._asked(rows)
        table = {**columns, "prompts": documents, "prompt_index": range(len(texts))}
        found = {"reward": np.asarray(call(self._judge(case, rows), texts, table), dtype=np.float64)}
        if columns:
            found |= report_rouge_rows(texts, columns["reference"], ROUGES)
        if result.log_likelihood is not None:
            found["log_likelihood"] = result.log_likelihood.cpu().numpy()
            found["j"] = found["reward"] / ALPHA + found["log_likelihood"]
        found["prose"] = np.array(self._prose(texts))
        found["words"] = np.array([len(text.split()) for text in texts], dtype=np.float64)
        if case in LENGTHS:
            found["met"] = (found["reward"] == 0).astype(np.float64)
        found["copy"] = copied(texts, documents)
        if "consensus" in case:
            found["seen"] = result.rewards.cpu().numpy().astype(np.float64)
        return found

    def whole(self, case: str, result: Result, rows: Tensor) -> dict[str, float]:
        """Of all samples: the different ones as a share."""
        texts = result.texts or []
        return {"distinct": len(set(texts)) / len(rows)}

    def _lengths(self, case: str, columns: Mapping[str, Sequence[Any]]) -> list[str] | str:
        """The length asked for, as a constraint on texts."""
        number = case.partition("-")[2]
        return of_words(int(number)) if number else [of_words(length) for length in lengths(columns["reference"])]

    @cached_property
    def _prose(self) -> Perplexity:
        return Perplexity("prose")

    @cached_property
    def _estimate(self) -> LearnedRouge:
        return LearnedRouge()

    def _reward(self, case: str, consensus: Any) -> Any:
        """The reward of a case, `consensus` standing for agreement with a pool of drafts."""
        if case in LENGTHS:
            return as_reference if case == "length" else Wanted(int(case.partition("-")[2]))
        if case == "estimate":
            return self._estimate
        of, _, length = self.known(case).partition("+")
        rewards = {
            "consensus": consensus,
            "source": Rouge("rougeL", "precision", references="prompts"),
            "reference": Rouge("rougeL"),
        }
        return rewards[of] + BAND if length else rewards[of]

    def _judge(self, case: str, rows: Tensor) -> Any:
        """The reward that is reported: with a pool of its own, drawn once for a row."""
        if "consensus" not in self.known(case):
            return self._reward(case, None)
        new = [row for row in dict.fromkeys(rows.tolist()) if row not in self._judges]
        if new:
            documents = [self._document(row) for row in new]
            self._judges |= zip(
                new, draw_drafts(self.model, documents, self.drafts, seed=JUDGE_SEED, rows=new).texts, strict=True
            )
        return self._reward(case, OfPrompts(Consensus([self._judges[row] for row in rows.tolist()])))

    def _pool(self, budget: Budget | None) -> OwnDrafts:
        """The pool that a run searches under."""
        bound = float("inf") if budget is None else min(budget.nfe, budget.total)
        if isinf(bound):
            return self.drafts
        return replace(self.drafts, n=max(1, int(SHARE * bound) // self.drafts.steps))

    def _all_drafts(self, budget: Budget | None) -> OwnDrafts:
        """A pool that takes the whole budget: each draft is judged, and the chosen one once more, to report it."""
        if budget is None:
            return self.drafts
        steps, allows = self.drafts.steps, budget.allows
        if not allows(Cost(steps, 2, steps)):
            raise ValueError(f"the budget of {budget} is too small for a draft of {steps} NFE: raise it")
        return replace(self.drafts, n=most(lambda n: allows(Cost(n * steps, n + 1, steps)), 1))

    def _asked(self, rows: Tensor) -> tuple[list[str], dict[str, list[Any]]]:
        """The documents of rows, and the columns that rewards may ask for."""
        references, count = self.records.references, len(self.records)
        columns = {} if references is None else {"reference": [references[row % count] for row in rows.tolist()]}
        return [self._document(row) for row in rows.tolist()], columns

    def _document(self, row: int) -> str:
        return self.records.documents[row % len(self.records)]


def task(
    *,
    model: TextModel | str | Path | None = None,
    data: str | Path | None = None,
    document: str = "document",
    summary: str | None = SUMMARY,
    split: str = "test",
    limit: int | None = None,
    lead: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    lossy: bool = False,
    quick: bool = False,
) -> Summarization:
    """The task, with the bundled model and the bundled sentences unless told otherwise.

    `model` is a text model or whatever `iterref.load` reads, on `device`, in the precision `dtype` and `lossy` for
    documents with characters that it lacks; what is read of `data` is said as in `records.read`. `quick` has one case,
    few methods and a small plain run.

    Raises `FileNotFoundError` for what is not there and `ValueError` for what cannot be read, saying what to do.
    """
    records = read(data or BUNDLED, document=document, summary=summary, split=split, limit=limit, lead=lead)
    if model is None or isinstance(model, str | Path):
        from iterref.loading import load

        model = load(model, device=device, dtype=dtype, lossy=lossy)
    _try(model, records)
    return Summarization(model, records, quick, keeps=data is None)


def _try(model: TextModel, records: Records) -> None:
    """Refuses documents that are too long before a sweep begins, and not in the middle of it."""
    if getattr(model, "draws_images", False):
        raise ValueError("this model draws images: give one that writes texts")
    longest = sorted(range(len(records)), key=lambda row: -len(records.documents[row]))[:LONGEST]
    for row in longest:
        try:
            model.prepare([records.documents[row]])
        except ValueError as error:
            raise ValueError(
                f"row {row} of {records.name} is refused by the model ({error}): leave it out, or let it read the "
                "first words of every document alone, as in lead=60"
            ) from None
