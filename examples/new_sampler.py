"""Independent Metropolis: a chain whose every proposal is a whole new draft; a sampler of your own.

y ~ the base decoder,   accept with min(1, exp((r(y) - r(x)) / alpha))       exact for the decoder's tilted law
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from iterref import Cost, Problem, sample
from iterref.decoding import advance, grid
from iterref.samplers.base import Info, State
from iterref.particles import adopt
from iterref.random import Rng
from iterref.samplers.base import Decoded


@dataclass(frozen=True)
class Independent(Decoded):
    """A draft of `steps` grid steps, and `proposals` further ones that it is tested against in turn."""

    name: ClassVar[str] = "independent"
    knob: ClassVar[str] = "proposals"  # what a budget buys, from one on
    proposals: int = 7
    iterations = property(lambda self: 1 + self.proposals)

    def init(self, problem: Problem, rng: Rng) -> State:
        return State(0, 1.0, problem.prior(rng))

    def step(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        times, y = grid(self.steps), problem.prior(rng.fork("prior"))
        for k in range(self.steps):
            y = advance(problem, y, times[k], times[k + 1], self.decoder, problem.rows, rng.fork("draft", k))
        reward = problem.score(y, problem.rows, final=True)
        if state.x_0 is None or state.reward is None:
            return State(1, 0.0, y, y, reward), Info()
        gain = ((reward - state.reward) / problem.alpha).nan_to_num(nan=-torch.inf)  # forbidden against forbidden
        accepted = rng.fork("accept").bernoulli(gain.clamp_max(0).exp())
        x, held = adopt(accepted, y, state.x_0), adopt(accepted, reward, state.reward)
        return State(state.step + 1, 0.0, x, x, held), Info(accepted.double(), changed=(x != state.x_0).sum(1))

    def cost(self) -> Cost:
        return Cost(self.steps, 1, self.steps) * self.iterations


if __name__ == "__main__":  # on a world whose tilted law is known; one token a step, so that drafts are the model's
    from iterref.exact.markov import world

    model, reward, tilted = world(length=6, vocab=4)
    problem = Problem(model, reward, torch.zeros(1000, 6), alpha=0.5)
    for budget in (12, 96, 768):
        result = sample(Independent(steps=6, order="left"), problem, budget=budget)
        print(f"{budget:3} denoiser rows: mean reward {float(result.rewards.mean()):.2f}   {result.sampler}")
    print(f"  the exact law: mean reward {tilted.mean_reward():.2f}")
