"""Independent Metropolis: a chain whose every proposal is a whole new draft; a method of your own.

y ~ the base decoder,   accept with min(1, exp((r(y) - r(x)) / alpha))       exact for the decoder's tilted distribution
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import inf

from iterref import Cost
from iterref.decoding import grid
from iterref.particles import adopt
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Decoded, Info, Paired, State


@dataclass(frozen=True)
class Independent(Decoded):
    """A draft of `steps` grid steps, then `proposals` further drafts, each accepted or rejected."""

    name: ClassVar[str] = "independent"
    knob: ClassVar[str] = "proposals"  # what a budget buys
    proposals: int = 7
    iterations = property(lambda self: 1 + self.proposals)

    def init(self, run: Run, rng: Rng) -> State:
        return State(0, 1.0, run.prior(rng))

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        times, y = grid(self.steps), run.prior(rng.fork("prior"))
        for k in range(self.steps):
            y = self.decoder.step(run, y, times[k], times[k + 1], rng.fork("draft", k))
        reward = run.reward_of(y, final=True)
        if not isinstance(state, Paired):  # the first draft
            return Paired(1, 0.0, y, y, reward), Info()
        gain = ((reward - state.reward) / run.alpha).nan_to_num(nan=-inf)  # forbidden against forbidden
        accepted = rng.fork("accept").bernoulli(gain.clamp_max(0).exp())
        x, reward = adopt(accepted, y, state.x_0), adopt(accepted, reward, state.reward)
        return Paired(state.step + 1, 0.0, x, x, reward), Info(accepted.double(), changed=(x != state.x_0).sum(1))

    def cost(self) -> Cost:
        return Cost(self.steps, 1, self.steps) * self.iterations


if __name__ == "__main__":  # on a world whose tilted distribution is known; one token a step: drafts are the model's
    import torch

    from iterref import Problem, sample
    from iterref.exact.markov import world

    model, reward, tilted = world(length=6, vocab=4)
    problem = Problem(model, reward, torch.zeros(400, 6), alpha=0.5)
    for budget in (12, 48, 192):
        result = sample(Independent(steps=6, order="left"), problem, budget=budget)
        print(f"{budget:3} NFE: mean reward {float(result.rewards.mean()):.2f}   {result.sampler}")
    print(f"  exactly: mean reward {tilted.mean_reward():.2f}")
