"""Demo: the bundled model on the bundled sentences, four methods at one budget of NFE.

    reward   consensus: mean ROUGE-L with a pool of the model's own drafts, which sees no reference
    held out ROUGE-L against the reference that was written for the sentence, which no method sees

The three guided methods pay for the pool out of their budget. `ancestral` needs none and takes the whole budget as
grid steps. Rows are those asked for, as the meter counts them; every number is a mean a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from importlib.resources import files
from math import isnan, sqrt
from textwrap import wrap

import torch

from iterref.budget import Cost, fitted
from iterref.drafts import OwnDrafts
from iterref.generation import draw_drafts, generate
from iterref.models.base import TextModel
from iterref.progress import Bar
from iterref.report.plots import Point
from iterref.result import Result
from iterref.rewards.rouge import report_rouge_rows
from iterref.samplers.base import Sampler
from iterref.samplers.strings import sampler_from_string

# The demo's options, all in one place.
BUDGET = 112  # NFE a sentence, the pool of drafts included
SHARES = (0.25, 0.5, 1.0)  # of what the pool leaves of the budget: the points of the picture
DRAFTS = OwnDrafts(n=8, steps=8, temperature=1.0)
TEMPERATURE = 0.5
ALPHA = 0.01
METHODS = {
    "ancestral": "ancestral",
    "best_of_n": "best_of_n:steps=8",
    "metropolis": "metropolis:span=0.75+0.5+0.25,spacing=0",
    "iterref": "iterref:tries=16,decisions=1,span=0.75+0.5+0.25,spacing=0,objective=maximise",
}
UNGUIDED = ("ancestral",)
REFINING = ("metropolis", "iterref")  # these start from the draft that agrees most with the others
STORY = "iterref"


@dataclass(frozen=True)
class Score:
    """Means a sentence of one method; `reward` is the consensus, `rouge_l` held out."""

    reward: float
    rouge_l: float
    nfe: float
    reward_calls: float
    seconds: float
    acceptance: float | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: scores at the full budget, the picture's points, the story's run and what it began with."""

    scores: dict[str, Score]
    points: dict[str, list[Point]]
    methods: dict[str, str]
    story: Result
    drafts: list[str]
    draft_rewards: list[float]
    documents: list[str]
    references: list[str]


def sentences() -> list[dict[str, str]]:
    """The bundled sentences, written for this project: dicts with `document` and `summary`."""
    text = files("iterref").joinpath("data/news.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def compare(
    model: TextModel,
    rows: Sequence[Mapping[str, str]],
    *,
    budget: float = BUDGET,
    seed: int = 0,
    drafts: OwnDrafts = DRAFTS,
    progress: bool = False,
) -> Comparison:
    """Runs every method on sentences (`document`, `summary`) at shares of `budget` NFE and at all of it.

    All are judged by one pool of drafts. Raises `ValueError`, before anything runs, for a budget that the pool alone
    would use up, or that is too small for one run of some method; shares that are too small are left out.
    """
    documents = [row["document"] for row in rows]
    references = model.decode(model.encode([row["summary"] for row in rows]))
    plan = [(name, method) for name in METHODS for method in _plan(name, budget, drafts)]
    pool = draw_drafts(model, documents, drafts, seed=seed, temperature=TEMPERATURE, progress=progress)
    points: dict[str, list[Point]] = {name: [] for name in METHODS}
    full: dict[str, Result] = {}
    for name, method in Bar(plan, "demo", shown=progress):
        result = generate(
            model, documents, reward=pool.reward() if name in UNGUIDED else pool, sampler=method, alpha=ALPHA,
            seed=seed, temperature=TEMPERATURE, start="drafts" if name in REFINING else None,
            watch=range(len(documents)) if name == STORY else (),
        )  # fmt: skip
        error = float(result.rewards.std(correction=0)) / sqrt(len(documents))
        points[name].append(Point(result.asked.nfe, float(result.rewards.mean()), error))
        full[name] = result  # budgets rise, so the last one stays
    begun = model.decode(pool.best()[0])
    rewards = pool.reward()(begun, rows=list(range(len(begun))))
    scores = {name: _score(result, references) for name, result in full.items()}
    methods = {name: str(result.sampler) for name, result in full.items()}
    return Comparison(scores, points, methods, full[STORY], begun, rewards, documents, references)


def table(comparison: Comparison) -> str:
    """The scores as aligned text, one method a line, and below it the options that the budget bought."""
    cells = [("method", "reward", "ROUGE-L", "NFE", "reward calls", "seconds", "acceptance")]
    for name, s in comparison.scores.items():
        accepted = "-" if s.acceptance is None else f"{s.acceptance:.2f}"
        spent = (f"{s.nfe:.1f}", f"{s.reward_calls:.1f}", f"{s.seconds:.3f}")
        cells.append((name, f"{s.reward:.4f}", f"{s.rouge_l:.4f}", *spent, accepted))
    name_width, *widths = (max(map(len, column)) for column in zip(*cells, strict=True))
    pads = [[cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True)] for row in cells]
    lines = ["  ".join([row[0].ljust(name_width), *pad]) for row, pad in zip(cells, pads, strict=True)]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*lines, "", "what the budget bought:", *(f"  {text}" for text in comparison.methods.values())])


def story(comparison: Comparison, model: TextModel) -> str:
    """One sentence refined step by step: the document, the draft, every accepted change with its reward.

    The sentence is the one whose reward rose most above its draft's; changed words stand in [brackets].
    """
    result, record = comparison.story, comparison.story.trace.table()
    gains = result.rewards - torch.tensor(comparison.draft_rewards, dtype=torch.float64)
    row = int(gains.argmax())
    texts = [comparison.drafts[row], *model.decode(record["clean"][:, row])]
    rewards = [comparison.draft_rewards[row], *record["reward"][:, row].tolist()]
    pool = result.asked.nfe - float(record["nfe"][-1])  # paid before the trace begins
    spent = [pool, *(pool + record["nfe"]).tolist()]
    lines = [*_entry("document", comparison.documents[row]), *_entry("reference", comparison.references[row]), ""]
    lines += _entry("draft", texts[0], rewards[0])
    for k in range(1, len(texts)):
        if texts[k] != texts[k - 1]:
            lines += _entry(f"NFE {spent[k]:.0f}", marked(texts[k - 1], texts[k]), rewards[k])
    assert result.texts is not None
    lines += _entry("best", result.texts[row], float(result.rewards[row]))
    return "\n".join(lines)


def marked(before: str, after: str) -> str:
    """The words of `after`, those that `before` has not at that place in [brackets], and [...] where words went."""
    old, new = before.split(), after.split()
    out: list[str] = []
    for kind, _, _, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        words = " ".join(new[start:end])
        out.append(words if kind == "equal" else f"[{words or '...'}]")
    return " ".join(filter(None, out))


def as_json(comparison: Comparison) -> dict[str, dict[str, dict[str, float | None]]]:
    """{"methods": {name: scores}}, plain numbers throughout."""
    return {"methods": {name: asdict(score) for name, score in comparison.scores.items()}}


def _plan(name: str, budget: float, drafts: OwnDrafts) -> list[Sampler]:
    """The method's options at every share of the budget, the whole of it last."""
    pool = drafts.cost()
    charge = Cost() if name in UNGUIDED else pool
    method = sampler_from_string(METHODS[name])
    if name in REFINING:
        method = method.refining()
    plan = []
    for share in SHARES[:-1]:
        with suppress(ValueError):
            plan.append(fitted(method, pool.nfe + int(share * (budget - pool.nfe)), charge))
    return [*plan, fitted(method, budget, charge)]


def _score(result: Result, references: Sequence[str]) -> Score:
    assert result.texts is not None
    accepted = result.trace.acceptance()
    return Score(
        reward=float(result.rewards.mean()),
        rouge_l=float(report_rouge_rows(result.texts, references, ("rougeL",))["rougeL"].mean()),
        nfe=float(result.asked.nfe),
        reward_calls=float(result.asked.reward_calls),
        seconds=result.seconds / len(result.texts),
        acceptance=None if isnan(accepted) else accepted,
    )


def _entry(name: str, text: str, reward: float | None = None) -> list[str]:
    """A labelled text, wrapped, with its reward."""
    first, *rest = wrap(text, 92) or [""]
    number = " " * 7 if reward is None else f"{reward:7.4f}"
    return [f"{name:>9}  {number}  {first}", *(" " * 20 + line for line in rest)]
