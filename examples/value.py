"""A value of unfinished states, learnt of a method's own runs, and what it gains at equal NFE and reward calls.

The world is a Markov chain of 24 tokens whose tilted distribution is known. Every run leaves states and the reward that
came of them; ridge regression on the pairs of neighbours that a state shows says how one follows from the other. The
methods are exact, or not, as they were: a better value costs fewer steps.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from iterref import Budget, Problem, sample
from iterref.exact.markov import world
from iterref.rewards import with_partial
from iterref.samplers import SMC, SVDD, VGB, Ancestral

LENGTH, KINDS, ROWS = 24, 8, 128
MODEL, PAIRS, EXACT = world(LENGTH, KINDS)
WEIGHTS = torch.zeros((KINDS + 1) ** 2 + 1, dtype=torch.float64)


def seen(tokens: Tensor, masked: Tensor) -> Tensor:
    """How often each pair of neighbours stands in a state, the mask being one more token, and a constant."""
    x = torch.where(masked, KINDS, tokens)
    pairs = x[:, :-1] * (KINDS + 1) + x[:, 1:]
    counts = torch.nn.functional.one_hot(pairs, (KINDS + 1) ** 2).sum(1).double()
    return torch.cat([counts, torch.ones(len(x), 1, dtype=torch.float64)], 1)


def value(tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
    """The reward that is to come of each state."""
    return seen(tokens, masked) @ WEIGHTS


def main() -> None:
    """Prints how well two rounds of runs are fitted, and the methods with and without the value."""
    problem = Problem(MODEL, with_partial(PAIRS, value), torch.zeros(ROWS, LENGTH), alpha=0.5)
    x, r = torch.zeros(0, len(WEIGHTS), dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    for method in (Ancestral(steps=8), SVDD(tries=16, value="partial")):  # the model's runs, then the guided ones
        result = sample(method, problem, seed=7, watch=range(ROWS))
        states = result.trace.table()["watched"].flatten(0, 1)
        x = torch.cat([x, seen(states, states == KINDS)])
        r = torch.cat([r, result.rewards.repeat(len(states) // ROWS)])
        WEIGHTS[:] = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]).double(), x.T @ r)
        print(f"{len(r)} states, {1 - float((x @ WEIGHTS - r).var() / r.var()):.2f} of the variance explained")
    for method in (SVDD(value="sample"), SMC(), VGB()):
        for with_value in (method, replace(method, value="partial")):
            runs = [sample(with_value, problem, seed=seed, budget=Budget(total=512)) for seed in (0, 1)]
            rewards, asked = torch.cat([run.rewards for run in runs]), runs[0].asked
            error = 1.96 * float(rewards.std()) / len(rewards) ** 0.5
            cost = f"{asked.nfe:.0f} NFE + {asked.reward_calls:.0f} calls"
            print(f"{runs[0].sampler!s:42} {cost:20} reward {rewards.mean():5.2f} +- {error:.2f}")
    print(f"{'the tilted distribution':63} reward {EXACT.mean_reward():5.2f}")


if __name__ == "__main__":
    main()
