"""iterref: more reward out of a discrete diffusion model at test time, by exact refinement.

    pi(x_0)  proportional to  p(x_0) exp(r(x_0) / alpha)

Letters for shapes, everywhere: **B** rows (one prompt each), **R** rows of one call, **N** candidates a row,
**L** positions, **V** tokens, **M** open positions in the whole batch, **K** steps, `*` any axes. Times run from 0
(clean) to 1 (noise); `a_t` is the probability that a token is still clean.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iterref.adaptive import focus, tune
    from iterref.budget import Budget, Cost, fit
    from iterref.comparison import Comparison, compare
    from iterref.denoise import Guided
    from iterref.drafts import OwnDrafts
    from iterref.editing import edit, infill, refine
    from iterref.estimation import estimate
    from iterref.generation import generate
    from iterref.loading import load
    from iterref.noise import Noise, Schedule, absorbing, uniform
    from iterref.problem import Problem
    from iterref.registry import parse
    from iterref.run import Result, sample

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Comparison",
    "Cost",
    "Guided",
    "Noise",
    "OwnDrafts",
    "Problem",
    "Result",
    "Schedule",
    "absorbing",
    "compare",
    "edit",
    "estimate",
    "fit",
    "focus",
    "generate",
    "infill",
    "load",
    "parse",
    "refine",
    "sample",
    "tune",
    "uniform",
]

# Where each public name lives. They are looked up on first use (PEP 562), so that the command line's help and lists
# do not wait for torch.
_HOMES = {
    "Budget": "budget",
    "Comparison": "comparison",
    "Cost": "budget",
    "Guided": "denoise",
    "Noise": "noise",
    "OwnDrafts": "drafts",
    "Problem": "problem",
    "Result": "run",
    "Schedule": "noise",
    "absorbing": "noise",
    "compare": "comparison",
    "edit": "editing",
    "estimate": "estimation",
    "fit": "budget",
    "focus": "adaptive",
    "generate": "generation",
    "infill": "editing",
    "load": "loading",
    "parse": "registry",
    "refine": "editing",
    "sample": "run",
    "tune": "adaptive",
    "uniform": "noise",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"iterref.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
