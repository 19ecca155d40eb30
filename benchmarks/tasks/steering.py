"""Steering: texts that go on from an opening, pulled towards a property that somebody else judges too.

    case            reward                                         judge
    sentiment       log p(positive), classifier `sentiment`        p(positive), classifier `sentiment-judge`
    acceptability   log p(acceptable), classifier                  p(acceptable), classifier `acceptability-judge`
                    `acceptability`
    perplexity      mean log-likelihood, `prose`, of 20 words      mean log p(x^i | x^{-i}) of the model that is steered
                    at least: five times the missing share less
    keywords        minus the given words that are missing         1 where all of them stand there, by other means
    length          minus the distance to a band of words          1 where they are within, and a sentence ends there

`sentiment-uniform`, `acceptability-uniform` and `perplexity-uniform` are the same on a uniform model. Row r goes on
from opening r mod 15: the literature's protocol is 300 rows, 20 of each, and three seeds (Dathathri et al. 2020,
arXiv:1912.02164; Singhal et al. 2025, arXiv:2501.06848). A reward can be had by bad means, so every case reports the
judge, how likely `prose` finds the texts, and how much they repeat each other, beside it. Whole texts are judged,
openings included; what the model repeats is counted behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.diversity import distinct, overlap, words
from benchmarks.frame.names import SPACED, SPANS
from benchmarks.frame.task import Direction, Task, worth
from iterref.budget import Budget
from iterref.drafts import tempered
from iterref.loading import load
from iterref.models.base import TextModel
from iterref.problem import Problem
from iterref.result import Result
from iterref.rewards.classifier import Classifier, Measure
from iterref.rewards.lexical import Lexical
from iterref.rewards.likelihood import SelfLikelihood
from iterref.rewards.perplexity import Perplexity
from iterref.rewards.text import TextReward
from iterref.samplers.base import Sampler
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

HOME = Path(__file__).parents[1]
# Each opening with the words that `keywords` asks for behind it.
OPENINGS: dict[str, tuple[str, str, str]] = {
    "the river": ("boat", "night", "voice"),
    "the captain": ("ship", "island", "hands"),
    "the letter": ("door", "table", "friend"),
    "the forest": ("trees", "light", "home"),
    "the road": ("horse", "hill", "house"),
    "the youngest sister": ("garden", "mother", "smile"),
    "the storm": ("wind", "sea", "window"),
    "the old house": ("room", "fire", "dark"),
    "the pony": ("boy", "field", "water"),
    "the garden": ("flowers", "wall", "key"),
    "the next morning": ("sun", "breakfast", "men"),
    "the stranger": ("face", "money", "town"),
    "the village": ("king", "people", "bread"),
    "the dog": ("bone", "street", "child"),
    "the story": ("characters", "film", "heart"),
}
BAND = (14, 16)  # words, of `length`
LEAST, SHORT = 20, 5.0  # words, of `perplexity`, and nats for all that are missing: the likeliest text is next to none
MODELS = {"": "tiny-books", "-uniform": str(HOME / "models" / "weights" / "tiny-books-uniform")}
LABELS = {"sentiment": "positive", "acceptability": "acceptable"}  # wanted of a classifier; `NAME-judge` is the other
AIMS = (*LABELS, "perplexity", "keywords", "length")
CASES = (*AIMS, *(f"{aim}-uniform" for aim in (*LABELS, "perplexity")))
GROUPS = 8  # in so many passes a masked model judges a text of its own
MOST = 512  # sequences of one call of the denoiser
MEASURES: dict[str, Direction] = {
    "reward": "higher",
    "judge": "higher",
    "log_perplexity": "lower",  # nats a token under `prose`, openings included
    "log_likelihood": "higher",
    "j": "higher",
    "distinct_1": "higher",
    "distinct_2": "higher",
    "distinct_3": "higher",
    "overlap": "lower",  # of texts with one opening
    "words": "neither",
}


@dataclass(frozen=True)
class Steering(Task):
    """The task: `cases`, grid `steps` of a plain run, the model's `temperature`, `openings` each with its keywords,
    positions of a canvas, and a `model` that is not the bundled ones."""

    cases: tuple[str, ...] = CASES
    steps: int = 16
    alpha: float = 0.1
    temperature: float = 0.8
    openings: tuple[tuple[str, tuple[str, ...]], ...] = tuple(OPENINGS.items())
    length: int | None = None
    model: str | Path | None = None
    name = "steering"
    main = "judge"
    measures = MEASURES
    pictured = (SPACED,)

    def plain(self, case: str) -> int:
        """The NFE of one plain run."""
        return self.steps

    def methods(self, case: str) -> list[str]:
        """The methods that are compared."""
        half = f"steps={self.steps // 2}"
        sought = ("smc", "svdd")
        best, surest = "objective=maximise", "order=confidence,block_length=8"
        masked = "-" not in case  # without a mask there is no order
        return [
            f"ancestral:steps={self.steps}", *([f"ancestral:steps={self.steps},{surest}"] if masked else []),
            f"best_of_n:{half}", *([f"best_of_n:{half},{surest}"] if masked else []),
            *(f"{name}:{half}" for name in sought), *(f"{name}:{half},{best}" for name in sought),
            f"smc:{half},x0_samples=16,{best}", f"beam:{half}", f"select_refine:{half}", "iterref", SPANS, SPACED,
            "auto",
        ]  # fmt: skip

    def ours(self, case: str) -> str:
        """The method that claims are about."""
        return "auto"

    def problem(self, case: str, rows: Tensor) -> Problem:
        """The problem of rows (R,) long. Raises `ValueError` for an unknown case or an opening that is too long."""
        aim, model = self._parts(case)
        opened = [self.openings[row % len(self.openings)] for row in rows.tolist()]
        prompts, keywords = [opening for opening, _ in opened], [list(words) for _, words in opened]
        denoiser, canvas, free = model.prepare(prompts)
        reward = TextReward(self._reward(aim), model.decode, prompts, {"keywords": keywords})
        warm = tempered(denoiser, self.temperature)
        return Problem(warm, reward, canvas, free, alpha=self.alpha, max_rows=MOST)

    def sample(
        self, case: str, method: str | Sampler, budget: Budget | None, rows: Tensor, seed: int,
        start: Tensor | None = None,
    ) -> Result:  # fmt: skip
        """A run of rows (R,) long; a row's text depends on (seed, its number) alone."""
        decode = self._parts(case)[1].decode
        problem = self.problem(case, rows)
        return sample(
            sampler_from_string(method), problem, seed=seed, rows=rows, budget=budget, start=start, decode=decode,
            log_likelihood=True,
        )  # fmt: skip

    def judge(self, case: str, result: Result, rows: Tensor) -> dict[str, np.ndarray]:
        """Measures of every text, (R,) float64 each."""
        aim, model = self._parts(case)
        texts = _texts(result)
        likelihood = np.array(self._prose(texts))
        return {
            "reward": result.rewards.cpu().numpy().astype(np.float64),
            "judge": self._judged(aim, model, texts, result.tokens, rows),
            "log_perplexity": -likelihood,
            "words": np.array([len(words(text)) for text in texts], dtype=np.float64),
            **worth(result, self.alpha),
        }

    def whole(self, case: str, result: Result, rows: Tensor) -> dict[str, float]:
        """Measures of the set, of what stands behind the openings."""
        owners = (rows % len(self.openings)).tolist()
        skipped = [len(words(opening)) for opening, _ in self.openings]
        behind = [words(text)[skipped[owner] :] for text, owner in zip(_texts(result), owners, strict=True)]
        return {**{f"distinct_{n}": distinct(behind, n) for n in (1, 2, 3)}, "overlap": overlap(behind, owners)}

    def _judged(self, aim: str, model: TextModel, texts: list[str], tokens: Tensor, rows: Tensor) -> np.ndarray:
        if aim in LABELS:
            return np.array(self._classifier(aim, f"{aim}-judge", "probability")(texts))
        if aim == "perplexity":
            return own_likelihood(model, tokens, [self.openings[row % len(self.openings)][0] for row in rows.tolist()])
        if aim == "length":
            low, high = BAND
            return np.array([float(low <= len(text.split()) <= high and closed(text)) for text in texts])
        asked = [self.openings[row % len(self.openings)][1] for row in rows.tolist()]
        return np.array([float(set(wanted) <= set(words(text))) for text, wanted in zip(texts, asked, strict=True)])

    def _parts(self, case: str) -> tuple[str, TextModel]:
        """The aim of a case and its model."""
        aim, dash, kind = self.known(case).partition("-")
        name = self.model if self.model is not None else MODELS[dash + kind]
        if str(name) not in self._loaded:
            self._loaded[str(name)] = load(name, length=self.length)
        return aim, self._loaded[str(name)]

    def _reward(self, aim: str) -> Callable[..., Any]:
        if aim == "keywords":
            return Lexical(required_column="keywords", hard=False)
        if aim == "length":
            return Lexical(words=BAND, hard=False)
        if aim in LABELS:
            return self._classifier(aim, aim, "log_probability")
        return self._prose + SHORT * Lexical(words=(LEAST, None), hard=False)

    @cached_property
    def _loaded(self) -> dict[str, TextModel]:
        return {}

    # A network remembers one text at most: what a run was told before is the run's own business, and so is its time.
    def _classifier(self, aim: str, name: str, value: Measure) -> Classifier:
        if name not in self._classifiers:
            self._classifiers[name] = Classifier(classifier(name), LABELS[aim], value=value, limit=1)
        return self._classifiers[name]

    @cached_property
    def _classifiers(self) -> dict[str, Classifier]:
        return {}

    @cached_property
    def _prose(self) -> Perplexity:
        return Perplexity("prose", limit=1)


def classifier(name: str) -> str | Path:
    """Where a classifier is: the folder of one of the benchmarks, or the name of one of the package's."""
    own = HOME / "rewards" / "weights" / name
    return own if own.is_dir() else name


def own_likelihood(model: TextModel, tokens: Tensor, openings: Sequence[str]) -> np.ndarray:
    """Mean log p(x^i | x^{-i}) of texts (R, L) long under the model, from the opening to the end of the text, (R,)."""
    denoiser, canvas, free = model.prepare(openings)
    end = model.codec.end  # type: ignore[attr-defined]
    if end is not None:  # the first end counts, it says that all is said; what stands behind it is another text
        ends = ((tokens == end) & free).long()
        behind = ends.cumsum(1) - ends > 0
        tokens, free = tokens.masked_fill(behind, end), free & ~behind
    judge = SelfLikelihood(denoiser, canvas, free, groups=GROUPS)
    return judge(tokens, torch.arange(len(tokens), device=tokens.device)).cpu().numpy()


def closed(text: str) -> bool:
    """Whether a text ends as a sentence does."""
    return text.rstrip("\"' )")[-1:] in (".", "!", "?")


def _texts(result: Result) -> list[str]:
    assert result.texts is not None
    return result.texts


def task(
    *,
    model: str | Path | None = None,
    data: str | Path | None = None,
    steps: int | None = None,
    length: int | None = None,
    alpha: float = Steering.alpha,
    temperature: float = Steering.temperature,
    quick: bool = False,
) -> Steering:
    """The task with the bundled models, or with a `model` that `iterref.load` reads, whatever its noise.

    `data` is a text file of openings to take in place of these, one a line; the keywords go round. `steps` are the grid
    steps of a plain run, `length` the positions of a canvas, `temperature` sharpens the model below 1. `quick` has two
    cases, 6 steps and 24 positions.

    Raises `FileNotFoundError` for a file that is not there and `ValueError` for one without openings, or bad numbers.
    """
    steps = steps if steps is not None else 6 if quick else Steering.steps
    length = 24 if quick and length is None else length
    if steps < 2 or not all(0 < value < float("inf") for value in (alpha, temperature)):
        raise ValueError(
            f"steering needs at least 2 steps, a positive alpha and a positive temperature, got {steps}, {alpha} and "
            f"{temperature}"
        )
    cases = ("sentiment", "keywords") if quick else CASES if model is None else AIMS
    openings = tuple(OPENINGS.items()) if data is None else read(Path(data))
    return Steering(cases, steps, alpha, temperature, openings, length, model)


def read(file: Path) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The openings of a text file, one a line. Raises `FileNotFoundError` or `ValueError`."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: give a text file with an opening a line")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is no text in UTF-8 ({error.reason}): give openings, one a line") from None
    found = [" ".join(line.split()) for line in lines if line.strip()]
    if not found:
        raise ValueError(f"{file.name} holds no openings: write one a line")
    keywords = list(OPENINGS.values())
    return tuple((opening, keywords[row % len(keywords)]) for row, opening in enumerate(found))
