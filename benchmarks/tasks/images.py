"""Images: 8 x 8 digits of a wanted class, or realistic ones, from the bundled masked and uniform models.

    masked, uniform                    p(x | y) exp(log p(y | x) / alpha)       the model knows the wanted class y
    masked-free, uniform-free          p(x) exp(log p(y | x) / alpha)           the reward alone knows it
    masked-realism, uniform-realism    p(x | y) exp(log p_data(x | y) / p_4(x | y))      away from what 4 steps do wrong

A plain run has 16 grid steps, for realism 4: those of 16 steps no discriminator told from data. Row r wants class
r % 10. Classes are judged by a network that learned from other images than the reward's, and sets by
their Frechet distance from held-out real digits in that network's features. The reference has the classes in the shares
that the rows have, so that a set is never charged for which rows it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.frame.names import SPACED
from benchmarks.frame.task import Direction, Task, worth
from benchmarks.frechet import frechet, mixed, moments
from benchmarks.gallery import gallery
from benchmarks.models.digits import CLASSES, FOLDERS, LEVELS, SIDE, Digits
from benchmarks.rewards.digits import DigitClass, Judge, Realism
from iterref.budget import Budget
from iterref.problem import Problem
from iterref.result import Result
from iterref.samplers.base import Sampler
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

ALPHA = 0.2  # of class rewards; the logit of realism is a log-ratio of distributions, and wants 1
MOST = 256  # sequences of one call of the denoiser
COARSE = 4  # grid steps of a plain run for realism, as its discriminators know them
ENOUGH = 8  # images of a class, below which no distance is taken
AIMS = ("", "-free", "-realism")
MEASURES: dict[str, Direction] = {
    "reward": "higher",
    "judge": "higher",  # log p of the wanted class under the judge
    "accuracy": "higher",  # whether the judge takes it for that class
    "realism": "higher",  # the discriminator's logit
    "log_likelihood": "higher",
    "j": "higher",
    "frechet": "lower",
    "frechet_class": "lower",  # the mean of the classes' own distances
    "distinct": "higher",
}
CASES = tuple(kind + aim for aim in AIMS for kind in FOLDERS)


@dataclass(frozen=True)
class Images(Task):
    """The task: `cases`, grid `steps` of a plain run with a class reward, its `alpha`, and models that are not the
    bundled ones, by the noise that they undo."""

    cases: tuple[str, ...] = CASES
    steps: int = 16
    alpha: float = ALPHA
    models: tuple[tuple[str, Digits], ...] = ()
    name = "images"
    main = "accuracy"
    measures = MEASURES
    pictured = (SPACED,)
    draws = True

    def plain(self, case: str) -> int:
        """The NFE of one plain run."""
        return COARSE if self._parts(case)[1] == "realism" else self.steps

    def methods(self, case: str) -> list[str]:
        """The methods that are compared: for realism by samples, for classes also by the best image seen."""
        plain = self.plain(case)
        if self._parts(case)[1] == "realism":  # drafts have the steps that the discriminators know
            names = ("ancestral", "best_of_n", "smc", "svdd", "select_refine:n=1,denoise_steps=2")
            return [*(_with(name, steps=plain) for name in names), "iterref"]
        half = plain // 2  # two drafts, particles or tries at the least budget
        best = "objective=maximise"
        sought = ["smc", f"smc:{best}", f"smc:x0_samples=8,{best}", "svdd", f"svdd:{best}"]
        sought.append(f"select_refine:n=2,denoise_steps={half // 2}")
        others = [_with(name, steps=half) for name in ("best_of_n", *sought)]
        return [f"ancestral:steps={plain}", *others, f"beam:steps={half}", "iterref", SPACED, "auto"]

    def ours(self, case: str) -> str:
        """The method that claims are about: for classes the best image, for realism a sample."""
        return "iterref" if self._parts(case)[1] == "realism" else "auto"

    def problem(self, case: str, rows: Tensor) -> Problem:
        """The problem of rows (R,) long, which name wanted classes. Raises `ValueError` for an unknown case."""
        kind, aim = self._parts(case)
        wanted = rows % CLASSES
        denoiser, canvas, free = self._model(kind).prepare([None] * len(rows) if aim == "free" else wanted)
        reward = Realism(wanted, kind) if aim == "realism" else DigitClass(wanted)
        alpha = 1.0 if aim == "realism" else self.alpha
        return Problem(denoiser, reward, canvas, free, alpha=alpha, max_rows=MOST)

    def sample(
        self, case: str, method: str | Sampler, budget: Budget | None, rows: Tensor, seed: int,
        start: Tensor | None = None,
    ) -> Result:  # fmt: skip
        """A run of rows (R,) long; a row's image depends on (seed, its number) alone."""
        problem = self.problem(case, rows)
        return sample(
            sampler_from_string(method), problem, seed=seed, rows=rows, budget=budget, start=start, log_likelihood=True
        )

    def judge(self, case: str, result: Result, rows: Tensor) -> dict[str, np.ndarray]:
        """Measures of every image, (R,) each."""
        wanted, kind = rows % CLASSES, self._parts(case)[0]
        log_p = self._judge.log_p(result.tokens)
        return {
            "reward": result.rewards.numpy(),
            "judge": log_p.gather(1, wanted[:, None])[:, 0].numpy(),
            "accuracy": (log_p.argmax(1) == wanted).double().numpy(),
            "realism": Realism(wanted, kind)(result.tokens, torch.arange(len(rows))).numpy(),
            **worth(result, 1.0 if self._parts(case)[1] == "realism" else self.alpha),
        }

    def whole(self, case: str, result: Result, rows: Tensor) -> dict[str, float]:
        """Measures of the set; `frechet_class` is NaN where a class has fewer than 8 images."""
        return self.compared(result.tokens, rows % CLASSES)

    def compared(self, tokens: Tensor, classes: Tensor) -> dict[str, float]:
        """How far images (R, 64) of classes (R,) are from held-out real ones, and the share of different ones."""
        features, of = self._judge.features(tokens).numpy(), classes.numpy()
        means, seconds = self._judge.means.numpy(), self._judge.seconds.numpy()
        shares = np.bincount(of, minlength=CLASSES)
        each = np.eye(CLASSES)
        apart = [frechet(moments(features[of == c]), mixed(each[c], means, seconds)) for c in np.flatnonzero(shares)]
        enough = bool((shares[shares > 0] >= ENOUGH).all())
        return {
            "frechet": frechet(moments(features), mixed(shares / len(of), means, seconds)),
            "frechet_class": float(np.mean(apart)) if enough else float("nan"),
            "distinct": len(tokens.unique(dim=0)) / len(tokens),
        }

    def gallery(self, case: str, results: Mapping[str, Result], path: str | Path) -> None:
        """Draws the images of some runs beside each other; columns are classes where the rows begin at 0."""
        panels = {name: result.tokens for name, result in results.items()}
        gallery(panels, path, side=SIDE, levels=LEVELS, columns=CLASSES)

    def _parts(self, case: str) -> tuple[Literal["masked", "uniform"], str]:
        """The noise and the aim of a case."""
        kind, _, aim = self.known(case).partition("-")
        return ("masked" if kind == "masked" else "uniform"), aim

    def _model(self, kind: str) -> Digits:
        known = self._loaded
        if kind not in known:
            known[kind] = Digits.load(kind)
        return known[kind]

    @cached_property
    def _loaded(self) -> dict[str, Digits]:
        return dict(self.models)

    @cached_property
    def _judge(self) -> Judge:
        return Judge()


def _with(method: str, steps: int) -> str:
    """A method with a number of grid steps."""
    return f"{method}{',' if ':' in method else ':'}steps={steps}"


def task(
    *, model: str | Path | None = None, data: None = None, steps: int | None = None, alpha: float = ALPHA,
    quick: bool = False,
) -> Images:  # fmt: skip
    """The task with the bundled models, or with the `model` in a folder that benchmarks/models/train_digits.py wrote.

    `steps` are those of a plain run with a class reward, 16 unless given; `quick` has 8, and the first two cases.
    Raises `ValueError` for `data`, which this task has none of, a wrong number, and as `Digits.load` does.
    """
    if data is not None:
        raise ValueError("images reads no data: its reference comes with the judge, so leave the data out")
    steps = steps if steps is not None else 8 if quick else 16
    if steps < COARSE or not 0 < alpha < float("inf"):
        raise ValueError(f"images needs at least {COARSE} steps and a positive alpha, got {steps} and {alpha}")
    cases = tuple(FOLDERS) if quick else CASES
    if model is None:
        return Images(cases, steps, alpha)
    loaded = Digits.load(model)
    kind = "masked" if loaded.network.options.masked else "uniform"
    return Images(tuple(case for case in cases if case.startswith(kind)), steps, alpha, ((kind, loaded),))
