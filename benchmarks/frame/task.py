"""Tasks: what a benchmark is made of: cases, methods that are compared in each, and measures of what they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from iterref.budget import Budget
from iterref.registry import did_you_mean
from iterref.result import Result
from iterref.samplers.strings import sampler_from_string

HOME = Path(__file__).parents[1] / "tasks"
Direction = Literal["higher", "lower", "neither"]


def names() -> list[str]:
    """All tasks: the files of `benchmarks/tasks`."""
    return sorted(file.stem for file in HOME.glob("*.py") if file.stem != "__init__")


def load(name: str, **options: Any) -> Task:
    """A task by name; `options` are its own, such as `model`, `data` and `quick`.

    Raises `ValueError` with the nearest name for an unknown one, and for one that compares no methods.
    """
    if name not in names():
        raise ValueError(f"unknown task {name!r}{did_you_mean(name, names())}")
    module = import_module(f"benchmarks.tasks.{name}")
    if not hasattr(module, "task"):
        raise ValueError(f"{name} compares no methods: run it by python -m benchmarks {name}")
    made: Task = module.task(**options)
    return made


def worth(result: Result, alpha: float) -> dict[str, np.ndarray]:
    """What finished texts are worth beside their reward, (R,) each: the model's own log-likelihood, in nats a text
    (`iterref.likelihood`, outside the budget), and J = r / alpha + log p."""
    assert result.log_likelihood is not None
    log_p = result.log_likelihood.cpu().numpy()
    return {"log_likelihood": log_p, "j": result.rewards.cpu().numpy() / alpha + log_p}


class Task(ABC):
    """A benchmark: `cases`, the `measures` and which way each is better (`reward`, the one that is optimised, first),
    `main`, the held-out one that claims are about, and the method that they are about, `ours`. A case may be without
    a measure; `reward` and `main` are there in all."""

    name: str
    main: str
    measures: Mapping[str, Direction]
    beside: tuple[str, ...] = ()  # held-out measures that claims are about, too
    samples, seeds = 100, 1  # of a run, and runs of a method, unless said otherwise
    facts: tuple[str, ...] = ()  # figures of a case that no method changes
    pictured: tuple[str, ...] = ()  # variants of `iterref` that pictures show beside the default
    # Whether the target distribution is known. Then rows name no prompts and differences are not paired, variants of
    # `iterref` compete too, and a rival is the variant that is best in the measure itself.
    exact = False
    draws = False
    keeps = True  # texts beside the runs; not those made from a data set of others, which is not ours to pass on

    @property
    @abstractmethod
    def cases(self) -> tuple[str, ...]:
        """The names of all cases."""

    @abstractmethod
    def ours(self, case: str) -> str:
        """The method that claims are about."""

    @abstractmethod
    def plain(self, case: str) -> int:
        """Denoiser rows of one plain run."""

    @abstractmethod
    def methods(self, case: str) -> list[str]:
        """The methods that are compared, plain sampling first."""

    @abstractmethod
    def sample(self, case: str, method: str, budget: Budget | None, rows: Tensor, seed: int) -> Result:
        """A run on rows (R,) long, which name prompts and random streams. Raises `ValueError` where it is refused."""

    @abstractmethod
    def judge(self, case: str, result: Result, rows: Tensor) -> dict[str, np.ndarray]:
        """Measures of every sample, (R,) each."""

    @abstractmethod
    def whole(self, case: str, result: Result, rows: Tensor) -> dict[str, float]:
        """Measures of the set of samples; NAME_sd is the standard deviation of one sample's share of NAME."""

    @property
    def claims(self) -> tuple[str, ...]:
        """The measures that methods are compared in; pictures show the first two."""
        return tuple(dict.fromkeys(("reward", self.main, *self.beside, *(["j"] if "j" in self.measures else []))))

    def known(self, case: str) -> str:
        """The case by its usual name. Raises `ValueError` for an unknown one."""
        if case not in self.cases:
            raise ValueError(f"{self.name} has no case {case!r}: choose one of {', '.join(self.cases)}")
        return case

    def check(self, method: str) -> None:
        """Raises `ValueError` for a method that cannot be read."""
        sampler_from_string(method)

    def moves(self, case: str) -> list[tuple[int, str]]:
        """Methods that run as they stand, without a budget, with their refinement moves at every grid time."""
        return []

    def fact(self, case: str, samples: int) -> dict[str, float]:
        """The `facts` of a case, some of which depend on the number of samples."""
        return {}

    def levels(self, facts: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Named values to draw across the picture of a measure, from the facts of a case."""
        return {}

    def most(self, facts: Mapping[str, float]) -> float:
        """The mean reward beyond which more is no better."""
        return inf

    def tables(self, runs: Path) -> Mapping[str, str]:
        """Tables of the task's own page in docs/, by their marks, from a runs.csv."""
        return {}

    def gallery(self, case: str, results: Mapping[str, Result], path: Path) -> None:
        """Draws samples of some runs beside each other, where `draws` says that samples are pictures."""
        raise NotImplementedError(f"the samples of {self.name} are no pictures")
