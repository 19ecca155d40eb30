"""What examples show: their output, the same without their reward, and how likely their model finds their texts.

    python -m tests.support.shown [NAME ...]      writes examples/outputs/NAME.txt anew, of all examples unless named

A reward is taken away where it reaches a `Problem`, so that no example knows of it.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from iterref import sampling
from iterref.guidance import untempered
from iterref.likelihood import log_likelihood
from iterref.problem import Problem
from iterref.result import Result
from iterref.rewards.algebra import values_states
from iterref.rewards.partial import with_partial
from iterref.run import Run
from iterref.samplers.strings import sampler_from_string

EXAMPLES = Path(__file__).parents[2] / "examples"
OUTPUTS = EXAMPLES / "outputs"
BASELINES = ("ancestral", "best_of_n")  # whose texts are shown for comparison
FIGURES = re.compile(r"-?\d+\.\d+|-?\b\d+(?= (?:NFE|reward calls))|(?<=reward)\s+-?\d+(?![.\d])")


def output(script: Path, folder: Path) -> str:
    """What an example prints, run in a folder, in this process, which has torch already."""
    out = StringIO()
    with chdir(folder), redirect_stdout(out):
        runpy.run_path(str(script), run_name="__main__")
    return out.getvalue()


def texts_of(shown: str) -> str:
    """What is shown without its figures: a reward of 0 is no other text."""
    return FIGURES.sub("#", shown)


@contextmanager
def without_rewards() -> Iterator[None]:
    """Every problem has a reward of 0, whatever it is given; so are values of unfinished states where it has some."""

    def reward(tokens: Tensor, rows: Tensor) -> Tensor:
        return torch.zeros(len(tokens), dtype=torch.float64)

    def value(tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
        return reward(tokens, rows)

    check = Problem.__post_init__

    def checked(problem: Problem) -> None:
        zero = with_partial(reward, value) if values_states(problem.reward) else reward
        object.__setattr__(problem, "reward", zero)
        check(problem)

    with patch.object(Problem, "__post_init__", checked):
        yield


@contextmanager
def recorded(textual: bool = True) -> Iterator[list[tuple[Problem, Result]]]:
    """Every finished run as a problem and its result; with `textual`, those that have texts."""
    found: list[tuple[Problem, Result]] = []
    made = sampling._result

    def kept(run: Run, *given: Any) -> Result:
        result = made(run, *given)
        if result.finished and (result.texts is not None or not textual):
            found.append((run.problem, result))
        return result

    with patch.object(sampling, "_result", kept):
        yield found


def behind_plain(problem: Problem, tokens: Tensor) -> float:
    """By how many nats a text the model finds texts (B, L) less likely than those of plain decoding, surest first."""
    own = replace(problem, denoiser=untempered(problem.denoiser))
    plain = sampling.sample(sampler_from_string("ancestral:steps=32,order=confidence"), problem).tokens
    with torch.inference_mode():
        first, other = (float(log_likelihood(Run(own), one).mean()) for one in (plain, tokens))
    return first - other


def main(names: list[str]) -> None:
    """Writes the outputs of the examples anew."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    OUTPUTS.mkdir(exist_ok=True)
    for script in sorted(EXAMPLES.glob("*.py")):
        if not names or script.stem in names:
            with TemporaryDirectory() as folder:
                shown = output(script, Path(folder))
            (OUTPUTS / f"{script.stem}.txt").write_text(shown, encoding="utf-8")
            print(f"== {script.stem}\n{shown}")


if __name__ == "__main__":
    main(sys.argv[1:])
