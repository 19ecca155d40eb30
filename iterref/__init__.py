"""iterref: more reward out of a discrete diffusion model at test time, by exact refinement.

    pi(x_0)  proportional to  p(x_0) exp(r(x_0) / alpha)

Letters for shapes, everywhere: **B** rows (one prompt each), **R** rows of one call, **N** candidates a row,
**L** positions, **V** tokens, **M** open positions in the whole batch, **K** steps, `*` any axes. Times run from 0
(clean) to 1 (noise); `a_t` is the probability that a token is still clean.
"""

from iterref.budget import Cost, fit
from iterref.noise import Noise, Schedule, absorbing, uniform
from iterref.problem import Problem
from iterref.registry import parse
from iterref.run import Result, sample

__version__ = "0.1.0"

__all__ = [
    "Cost",
    "Noise",
    "Problem",
    "Result",
    "Schedule",
    "absorbing",
    "fit",
    "parse",
    "sample",
    "uniform",
]
