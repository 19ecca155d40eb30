"""A session under random use: whatever is called in whatever order, the history keeps its laws and can be replayed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from iterref.editing import Editing, edit
from tests.support.fakes import FakeModel, beta

PROMPTS, TEXTS = ["one", "one two"], ["alpha gamma", "gamma alpha delta"]
SMALL = "iterref:moves=1,tries=2,steps=1"
strengths = st.sampled_from([0.2, 0.5, 1.0])
Call = Callable[[Editing], Editing]


class Session(RuleBasedStateMachine):
    """Refines, infills, varies and goes back at random; the calls are written down and made again at the end."""

    @initialize(bound=st.sampled_from([0.0, 0.34, 0.67, None]), seed=st.integers(0, 99), room=st.sampled_from([0, 1]))
    def begin(self, bound: float | None, seed: int, room: int) -> None:
        self.bound = bound
        self.start = lambda: edit(
            FakeModel(), TEXTS, prompts=PROMPTS, reward=beta, alpha=0.4, drift=bound, seed=seed, room=room
        )
        self.calls: list[Call] = []
        self.chain = self.start()

    def do(self, call: Call) -> None:
        before, size = self.chain, len(self.chain.history)
        self.chain = call(self.chain)
        self.calls.append(call)
        assert before.at < size and before.history is self.chain.history  # the old session still stands where it stood

    @rule(strength=strengths)
    def refine(self, strength: float) -> None:
        self.do(lambda chain: chain.refine(strength=strength, sampler=SMALL))

    @rule(n=st.integers(1, 3), strength=strengths, parent=st.booleans())
    def vary(self, n: int, strength: float, parent: bool) -> None:
        self.do(lambda chain: chain.vary(n, strength=strength, sampler=SMALL, parent=parent))

    @rule(place=st.integers(0, 2), row=st.integers(0, 1))
    def infill(self, place: int, row: int) -> None:
        words = self.chain.texts[row].split()
        if place >= len(words):
            return
        held = self.chain.tokens.clone()
        words[place] = f"[{words[place]}]"
        marked = [" ".join(words) if k == row else None for k in range(2)]
        self.do(lambda chain: chain.infill(marked, sampler=SMALL))
        held[row, place] = self.chain.tokens[row, place]
        assert torch.equal(held, self.chain.tokens)

    @rule(data=st.data())
    def back(self, data: st.DataObject) -> None:
        node = data.draw(st.integers(0, len(self.chain.history) - 1))
        self.do(lambda chain: chain.back(node))

    @rule()
    def take_the_best(self) -> None:
        self.do(lambda chain: chain.back(chain.best().nodes))

    @invariant()
    def the_history_holds(self) -> None:
        history, first = self.chain.history, self.chain.history[0]
        assert first.texts == TEXTS and self.chain.at < len(history)
        assert len({node.path for node in history}) == len(history)
        frozen = ~self.chain.context.problem.may_change
        for k, node in enumerate(history):
            assert node.id == k and (node.parent is None) == (k == 0)
            if node.parent is not None:
                assert node.parent < k and node.path[:-1] == history[node.parent].path
                assert node.spent == history[k - 1].spent + node.cost
            assert node.texts == FakeModel().decode(node.tokens)
            assert node.rewards.tolist() == beta(node.texts)
            assert torch.equal(node.tokens[frozen], first.tokens[frozen])
            assert self.bound is None or float(node.drift.max()) <= self.bound
            changed = (node.tokens != first.tokens).sum(1)
            assert torch.equal(node.drift == 0, changed == 0)
        assert torch.equal(self.chain.best().rewards, torch.stack([node.rewards for node in history]).amax(0))

    def teardown(self) -> None:
        if not hasattr(self, "chain"):
            return
        again = self.start()
        for call in self.calls:
            again = call(again)
        for node, same in zip(self.chain.history, again.history, strict=True):
            assert torch.equal(node.tokens, same.tokens) and node.operation == same.operation


TestSession = Session.TestCase
TestSession.settings = settings(max_examples=6, stateful_step_count=8, deadline=None)


class Unbounded(Session):
    """Negative control: what is said to be bounded is not."""

    @initialize(seed=st.integers(0, 99))
    def begin(self, seed: int) -> None:
        super().begin(None, seed, 1)
        self.bound = 0.34


class Forgetful(Session):
    """Negative control: random numbers that depend on more than the seed and the calls."""

    def do(self, call: Call) -> None:
        super().do(call)
        self.chain.history.nodes[-1].tokens.random_(0, 2)


@pytest.mark.parametrize("broken", [Unbounded, Forgetful])
def test_the_machine_notices_what_is_broken(broken: type[Session]) -> None:
    found = settings(
        max_examples=20, stateful_step_count=8, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    with pytest.raises(AssertionError):
        run_state_machine_as_test(broken, settings=found)
