"""Stories: three small problems on which the demo compares methods at one budget.

    rule     a summary of exactly the words asked for, with a name     reward: 0 where it is kept, less otherwise
    tone     a summary that is kind, judged by another classifier      reward: log p(positive), less words of its own
    puzzle   a 9 x 9 Sudoku with 30 givens                             reward: minus the digits that are missing

Every method may use the same NFE and the same reward calls a text. One figure says what a text is worth, reward and
language together: J = r / alpha + log p, in nats, the objective of `auto`. What is shown is the first prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import LCSseq

from iterref.budget import Budget
from iterref.demo.grids import load
from iterref.demo.puzzles import Surplus, broken, puzzle
from iterref.generation import generate
from iterref.models.base import TextModel
from iterref.paired import Mean, difference
from iterref.problem import Problem
from iterref.result import Result
from iterref.rewards.algebra import weighted
from iterref.rewards.classifier import Classifier
from iterref.rewards.perplexity import Perplexity
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

# What the demo says and does, all in one place.
NFE, CALLS = 96, 8  # network evaluations a text, and reward calls that go with each
LEAST = 16  # NFE: a smaller budget leaves some method nothing to do
OURS, PLAIN = "auto", "plain decoding"
SUREST = "ancestral:order=confidence"
RIVALS = {"best of N": "best_of_n", "SMC (FK steering)": "smc:x0_samples=8"}
METHODS = {PLAIN: SUREST, **RIVALS, OURS: "auto"}
GRID_METHODS = {PLAIN: "ancestral", **RIVALS, "plain, surest first": SUREST, OURS: "auto"}
ARTICLES = (  # with the words that a summary is to have, and the name that it must have
    ("The village of Aldmere has won a national prize for its orchard, where volunteers grow apples.", 9, "aldmere"),
    ("Engineers have repaired the damaged railway bridge at Stoke Ferry, and trains will run on Tuesday.", 10, "stoke"),
    ("The orchestra of Aldmere will play on the roof of the market hall on Saturday.", 9, "aldmere"),
    ("Midfielder Ana Loredo has signed a new three-year contract with Westbury, the club said on Monday.", 8, "ana"),
    ("Firefighters in Santa Merla fought for nine hours to control a grass fire, the mayor said.", 8, "santa"),
    ("A lorry carrying oranges overturned on the coast road near Penmoor early on Friday.", 9, "penmoor"),
    ("The airline Norwind has cancelled all of its flights to the islands after pilots voted to strike.", 8, "norwind"),
)  # fmt: skip
SENTENCES = (
    "A happy couple was married in the ugly hall of a school in Ashby.",
    "A charming cafe was opened in the dirty main street of Westmark on Friday.",
    "A beautiful garden was opened behind the ugly library of Aldmere on Monday.",
    "A brilliant singer won the boring contest in Caldwick on Saturday.",
    "A wonderful party was held in the dull office of the mayor on Friday.",
    "A delicious meal was served in the noisy hall of the hotel on Sunday.",
    "The funny and clever play about a cruel king opened in London on Friday.",
)
RULE_ALPHA, TONE_ALPHA = 0.25, 0.15  # reward that is worth a nat of the model's own log-likelihood
SIDE, GIVENS, PUZZLES = 9, 30, 16


@dataclass(frozen=True)
class Run:
    """One method on one story: its result, the judge's figures (B,) of its texts, what they are worth (B,), J in nats
    or the judge's figure where the model has no say, and the first text."""

    result: Result
    judged: np.ndarray
    worth: np.ndarray
    shown: str

    @property
    def log_p(self) -> float | None:
        """The mean log-likelihood of a text under the model, in nats."""
        return None if self.result.log_likelihood is None else float(self.result.log_likelihood.mean())

    def over(self, other: Run) -> Mean:
        """By how much this run's texts are worth more than another's, prompt by prompt."""
        return difference(self.worth, other.worth)


@dataclass(frozen=True)
class TextStory:
    """A problem of a summariser in words: the `task`, and the `judge` that no method sees. `given` is shown."""

    title: str
    task: str
    judge: str
    model: TextModel
    prompts: Sequence[str]
    reward: Any
    judged: Any
    alpha: float
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    methods, unit = METHODS, "J, nats"

    @property
    def given(self) -> str:
        return self.prompts[0]

    def run(self, method: str, budget: Budget, seed: int) -> Run:
        """One method on all prompts, within the budget of a text."""
        result = generate(
            self.model, self.prompts, reward=self.reward, columns=self.columns, sampler=self.methods[method],
            budget=budget, alpha=self.alpha, seed=seed, log_likelihood=True,
        )  # fmt: skip
        assert result.texts is not None and result.log_likelihood is not None
        worth = (result.rewards.double() / self.alpha + result.log_likelihood).numpy()
        return Run(result, np.array(self.judged(result.texts)), worth, result.texts[0])


class GridStory:
    """Puzzles under the bundled model of grids. The judge is a checker that shares no code with the reward."""

    title, task, judge = "a puzzle", f"a Sudoku with {GIVENS} givens", "solved"
    methods, unit = GRID_METHODS, "share solved"

    @cached_property
    def cells(self) -> torch.Tensor:
        """The puzzles, (B, L), -1 where a cell is free."""
        return torch.tensor([puzzle(SIDE, GIVENS, most=1, seed=1, number=n).cells for n in range(PUZZLES)])

    @property
    def given(self) -> str:
        return drawn(self.cells[0].tolist())

    def run(self, method: str, budget: Budget, seed: int) -> Run:
        cells = self.cells
        problem = Problem(load(SIDE), Surplus(SIDE), cells.clamp_min(0), free=cells < 0, finds_alpha=True)
        result = sample(sampler_from_string(self.methods[method]), problem, seed=seed, budget=budget)
        grids = result.tokens.tolist()
        solved = np.array([float(broken(grid, SIDE) == 0) for grid in grids])
        return Run(result, solved, solved, drawn(grids[0]))


Story = TextStory | GridStory


def stories_of(model: TextModel) -> tuple[TextStory, TextStory, GridStory]:
    """The three stories, the first two with a summariser."""
    articles, words, names = zip(*ARTICLES, strict=True)
    rule = f"a summary of exactly {words[0]} words that names {names[0].title()}"
    columns, tone = {"words": words, "name": names}, "a kind summary, in words that the sentence has"
    kind, judge = Classifier("sentiment", "positive"), Classifier("sentiment-judge", "positive", value="probability")
    reward, prose = weighted([kind, in_its_words]), Perplexity("prose")
    return (
        TextStory("a rule", rule, "prose", model, articles, keeps_the_rule, prose, RULE_ALPHA, columns),
        TextStory("a tone", tone, "judge", model, SENTENCES, reward, judge, TONE_ALPHA),
        GridStory(),
    )


def in_its_words(completions: list[str], prompts: list[str], **columns: object) -> list[float]:
    """Minus the words of a text that its prompt does not have, in its order."""
    pairs = [(words_of(text), words_of(prompt)) for text, prompt in zip(completions, prompts, strict=True)]
    return [float(LCSseq.similarity(text, prompt) - len(text)) for text, prompt in pairs]


def keeps_the_rule(completions: list[str], words: list[int], name: list[str], **columns: object) -> list[float]:
    """Minus the words too many or too few, and 2 where the name is missing."""
    wanted = zip(map(words_of, completions), words, name, strict=True)
    return [-abs(len(text) - size) - 2.0 * (needed not in text) for text, size, needed in wanted]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without signs."""
    return re.findall(r"[\w'-]+", text.lower())


def drawn(cells: Sequence[int]) -> str:
    """A grid as text, with a dot where nothing is known."""
    digits = ["." if cell < 0 else str(cell + 1) for cell in cells]
    return "\n".join(" ".join(digits[i : i + SIDE]) for i in range(0, SIDE**2, SIDE))

