"""Wrong rules that look right, each built from the production parts, for the tests of traps and the table of biases."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from iterref import mtm
from iterref.moves.independent import tries
from iterref.moves.renoise import renoise
from iterref.particles import adopt, pick
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Info, Paired
from tests.support.worlds import Move, refine

ALPHA = 0.5
TRIP = refine(0, 0.6)


def excursion(run: Run, state: Paired, n: int, rng: Rng) -> tuple[Tensor, Tensor]:
    """N candidates of the shared kernel on clean text, with their rewards: (N, B, L), (N, B)."""
    noisy = renoise(run, state.x_t, TRIP, 0, rng)
    where = run.undetermined(noisy.x_s, TRIP.times[0])
    x_0, _ = run.draw(noisy.x_s, TRIP.times[0], where, n, rng)
    return x_0, run.reward_of(x_0, final=True)


def moved(state: Paired, accepted: Tensor, x: Tensor, reward: Tensor) -> tuple[Paired, Info]:
    new = adopt(accepted, x, state.x_0)
    return replace(state, x_t=new, x_0=new, reward=adopt(accepted, reward, state.reward)), Info()


def softmax_then_reward_only(run: Run, state: Paired, rng: Rng) -> tuple[Paired, Info]:
    """A weighted choice, accepted by the ratio of the two rewards: no reference set, so it tilts twice."""
    new = tries(run, state.x_t, TRIP, 2, 0, rng)
    choice = mtm.propose(new.reward.T / ALPHA, rng).choice
    r_y = pick(new.reward, choice)
    accepted = rng.bernoulli(((r_y - state.reward) / ALPHA).clamp_max(0).exp())
    return moved(state, accepted, pick(new.x_0, choice), r_y)


def greedy_choice(run: Run, state: Paired, rng: Rng) -> tuple[Paired, Info]:
    """The best candidate, accepted by the ratio of the two rewards."""
    x_0, reward = excursion(run, state, 2, rng)
    choice = reward.argmax(0)
    r_y = pick(reward, choice)
    accepted = rng.bernoulli(((r_y - state.reward) / ALPHA).clamp_max(0).exp())
    return moved(state, accepted, pick(x_0, choice), r_y)


def until_first_acceptance(run: Run, state: Paired, rng: Rng) -> tuple[Paired, Info]:
    """Repeats Metropolis' test and counts the first acceptance as one iteration: rejections no longer weigh."""
    x_0, reward = excursion(run, state, 1, rng)
    chosen, r_chosen = x_0[0], reward[0]
    accepted = rng.bernoulli(((r_chosen - state.reward) / ALPHA).clamp_max(0).exp())
    for _ in range(2):
        x_0, reward = excursion(run, state, 1, rng)
        again = rng.bernoulli(((reward[0] - state.reward) / ALPHA).clamp_max(0).exp()) & ~accepted
        chosen, r_chosen = adopt(again, x_0[0], chosen), adopt(again, reward[0], r_chosen)
        accepted = accepted | again
    return moved(state, accepted, chosen, r_chosen)


def estimated_again(move: Move) -> Move:
    """A move before which the clean sample of the current state, and with it its reward, is drawn anew."""

    def again(run: Run, state: Paired, rng: Rng) -> tuple[Paired, Info]:
        x_0, _ = run.draw(state.x_t, state.t, run.undetermined(state.x_t, state.t), 1, rng)
        return move(run, replace(state, x_0=x_0[0], reward=run.reward_of(x_0[0], final=False)), rng)

    return again
