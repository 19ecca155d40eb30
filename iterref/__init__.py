"""iterref: more reward out of a discrete diffusion model at test time, by exact refinement.

    pi(x_0)  proportional to  p(x_0) exp(r(x_0) / alpha)

Letters for shapes, everywhere: **B** rows (one prompt each), **R** rows of one call, **N** candidates a row,
**L** positions, **V** tokens, **M** open positions in the whole batch, **K** steps, `*` any axes. Times run from 0
(clean) to 1 (noise); `a_t` is the probability that a token is still clean.
"""

from typing import TYPE_CHECKING

from iterref import lazy

if TYPE_CHECKING:
    from iterref import models, rewards, samplers
    from iterref.adaptive import refine_hardest, select_sampler
    from iterref.budget import Budget, Cost, fit_budget
    from iterref.comparison import Comparison, compare
    from iterref.data_sets import read_dataset
    from iterref.denoiser import Denoiser
    from iterref.drafts import OwnDrafts
    from iterref.editing import edit, infill, refine
    from iterref.estimation import estimate
    from iterref.generation import generate
    from iterref.guidance import ClassifierFreeGuidance
    from iterref.loading import load
    from iterref.noise import Noise, Schedule, absorbing, uniform
    from iterref.problem import Problem
    from iterref.result import Result
    from iterref.rewards.strings import reward_from_string
    from iterref.samplers.strings import sampler_from_string
    from iterref.sampling import sample
    from iterref.text_likelihood import log_likelihood

__version__ = "0.2.0"

# Written out: type checkers and the reference take a name for public only where they can read it here.
__all__ = [
    "Budget", "ClassifierFreeGuidance", "Comparison", "Cost", "Denoiser", "Noise", "OwnDrafts", "Problem", "Result",
    "Schedule", "absorbing", "compare", "edit", "estimate", "fit_budget", "generate", "infill", "load",
    "log_likelihood", "models", "read_dataset", "refine", "refine_hardest", "reward_from_string", "rewards", "sample",
    "sampler_from_string", "samplers", "select_sampler", "uniform",
]  # fmt: skip

# Names are looked up on first use, so that the command line's help and lists do not wait for torch.
lazy.attach(__name__)
