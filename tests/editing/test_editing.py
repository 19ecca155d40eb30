"""Sessions: each operation on a small text model, the history, determinism, charges, and every refusal at the door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import iterref
from iterref import Cost, OwnDrafts, sample
from iterref.editing import Editing, History, edit, infill
from iterref.editing.history import node_seed
from iterref.editing.strength import strengthened
from iterref.generation import draw_drafts
from iterref.rewards.base import RewardError
from iterref.samplers.strings import sampler_from_string
from tests.support.bundled import tiny_news
from tests.support.fakes import LENGTH, WORDS, FakeDenoiser, FakeModel, beta, fails_after

PROMPTS = ["one", "one two"]
TEXTS = ["alpha gamma", "gamma alpha delta"]
SMALL = "iterref:moves=3,tries=3"


def session(**options: Any) -> Editing:
    """A session over two texts, asked for many a beta."""
    given = {"prompts": PROMPTS, "reward": beta, "alpha": 0.3, "room": 1} | options
    return edit(FakeModel(), TEXTS, **given)


class OneLaw(FakeModel):
    """A text model whose law is the same for every prompt, so that many rows are quick."""

    def prepare(self, prompts: Sequence[str]) -> tuple[FakeDenoiser, Tensor, Tensor]:
        _, canvas, free = super().prepare(prompts)
        return FakeDenoiser([self.table("one two")], self.noise), canvas, free


def test_the_first_node_is_the_texts_with_their_rewards():
    chain = session()
    assert chain.texts == TEXTS and chain.rewards.tolist() == beta(TEXTS)
    assert chain.drift.tolist() == [0, 0] and chain.cost == Cost(0, 1)
    assert chain.result is None and len(chain.history) == 1


def test_refining_is_a_run_from_the_current_texts_with_the_nodes_own_seed():
    chain = session(seed=5).refine(strength=0.4, sampler=SMALL)
    again = chain.refine(strength=0.4, sampler=SMALL)
    problem = session().context.problem
    method = sampler_from_string("iterref:steps=0,moves=3,tries=3,span=0.4+0.2")
    first = sample(method, problem, seed=node_seed(5, (0,)), start=problem.canvas)
    assert torch.equal(chain.tokens, first.tokens)
    assert again.node.parent == chain.at and again.node.path == (0, 0)
    assert again.cost == Cost(0, 1) + chain.node.cost + again.node.cost
    assert again.result is not None and again.result.trace.steps
    assert chain.node.cost == sampler_from_string("iterref:steps=0,moves=3,tries=3").cost()


def test_the_reward_rises_and_belongs_to_the_text():
    chain = edit(OneLaw(), ["alpha gamma"] * 60, prompts=["one two"] * 60, reward=beta, alpha=0.2)
    better = chain.refine(strength=1.0, budget=20)
    assert float(better.rewards.mean()) > float(chain.rewards.mean()) + 1
    assert better.rewards.tolist() == beta(better.texts)
    assert better.node.cost.nfe == 20


def test_room_is_how_far_a_text_may_grow():
    grown = edit(OneLaw(), ["alpha"] * 60, prompts=["one two"] * 60, reward=beta, alpha=0.2, room=1)
    longest = max(len(text.split()) for text in grown.refine(strength=1.0, sampler=SMALL).texts)
    assert longest == 2
    whole = edit(OneLaw(), ["alpha"] * 60, prompts=["one two"] * 60, reward=beta, alpha=0.2, room=None)
    assert max(len(text.split()) for text in whole.refine(strength=1.0, sampler=SMALL).texts) == 3


@pytest.mark.parametrize("method", ["iterref:moves=4,tries=2", "ancestral:steps=2", "best_of_n:n=2,steps=2"])
def test_infilling_keeps_every_other_token(method):
    texts = ["alpha [gamma] delta", "[gamma alpha] delta", "gamma [alpha] [delta]", "beta gamma [alpha]"] * 4
    done = infill(OneLaw(), texts, prompts=["one two"] * 16, reward=beta, sampler=method)
    first = done.history[0].tokens
    for row, text in enumerate(texts):
        marked = [k for k, word in enumerate(text.replace("gamma alpha", "gamma] [alpha").split()) if "[" in word]
        held = [k for k in range(LENGTH) if k not in marked]
        assert torch.equal(done.tokens[row, held], first[row, held])
        assert len(done.texts[row].split()) == 3  # no text ends within a region
    assert not torch.equal(done.tokens, first)


def test_infilling_samples_the_conditional_law():
    """1200 independent rows against the exact law of the marked token, and against the law without the reward."""
    model, alpha, n = OneLaw(), 0.7, 1200
    texts = ["gamma [alpha] delta"] * n
    done = infill(model, texts, prompts=["one two"] * n, reward=beta, alpha=alpha,
                  sampler="iterref:steps=2,moves=3,tries=2")  # fmt: skip
    states = torch.tensor([[2, k, 3] for k in range(len(WORDS) - 1)])
    log_p = model.table("one two").log_prob(states)
    seen = torch.bincount(done.tokens[:, 1], minlength=4).double() / n
    exact = (log_p + torch.tensor(beta(model.decode(states))) / alpha).softmax(0)
    assert float((seen - exact).abs().sum() / 2) < 0.03
    assert float((seen - log_p.softmax(0)).abs().sum() / 2) > 0.1


def test_a_region_may_be_refined_instead_or_get_another_length():
    chain = session(room=2)
    refined = chain.infill(["[alpha] gamma", None], strength=1.0, sampler=SMALL)
    assert refined.node.options["sampler"] == "iterref:steps=0,moves=3,span=1.0+0.5,spacing=0,tries=3"
    assert refined.texts[1] == TEXTS[1] and refined.tokens[0, 1] == chain.tokens[0, 1]
    longer = chain.infill(["alpha [] gamma", None], length=1, sampler=SMALL)
    words = longer.texts[0].split()
    assert len(words) == 3 and (words[0], words[2]) == ("alpha", "gamma")


def test_what_was_infilled_can_be_infilled_again():
    chain = session().infill(["alpha [gamma]", None], sampler=SMALL)
    first, _ = chain.texts[0].split()
    again = chain.infill([f"[{first}] {chain.texts[0].split()[1]}", None], sampler=SMALL)
    assert again.tokens[0, 1] == chain.tokens[0, 1] and again.node.parent == chain.at


def test_alternatives_are_recorded_as_siblings_and_the_best_is_gone_on_with():
    chain = session()
    varied = chain.vary(4, strength=1.0, sampler=SMALL)
    made, chosen = varied.history.nodes[1:5], varied.node
    assert [node.operation for node in made] == ["vary"] * 4 and chosen.operation == "pick"
    assert {node.parent for node in [*made, chosen]} == {0}
    rewards = torch.stack([node.rewards for node in made])
    assert torch.equal(varied.rewards, rewards.amax(0))
    assert [varied.history[k].texts[row] for row, k in enumerate(chosen.sources)] == varied.texts
    assert len({tuple(node.texts) for node in made}) > 1
    total = sum((node.cost for node in made), Cost())
    assert total.nfe == 4 * sampler_from_string(SMALL).refining().cost().nfe
    assert varied.cost == chain.history[0].cost + total


def test_an_alternative_does_not_depend_on_their_number_and_the_first_is_what_refining_does():
    few, many = session().vary(2, strength=0.6, sampler=SMALL), session().vary(5, strength=0.6, sampler=SMALL)
    for k in (1, 2):
        assert torch.equal(few.history[k].tokens, many.history[k].tokens)
    assert torch.equal(few.history[1].tokens, session().refine(strength=0.6, sampler=SMALL).tokens)
    first = session().vary(3, strength=0.6, sampler=SMALL, take="first")
    assert torch.equal(first.tokens, first.history[1].tokens)


def test_the_state_before_may_compete():
    def dislikes_change(completions: list[str], rows: list[int]) -> list[float]:
        return [float(text == TEXTS[row]) for row, text in zip(rows, completions, strict=True)]

    options = {"strength": 1.0, "sampler": "iterref:moves=1,tries=1"}
    chain = session(reward=dislikes_change, alpha=50.0)
    assert chain.vary(1, **options).texts != TEXTS
    assert chain.vary(1, parent=True, **options).texts == TEXTS


def test_alternatives_declare_what_they_take_and_are_the_best_where_the_method_maximises():
    chain, rewards = session(alpha=5.0), {}
    for written in (SMALL, f"{SMALL},objective=maximise", "metropolis:moves=3", f"{SMALL},chains=2"):
        varied = chain.back(0).vary(3, strength=1.0, sampler=written)
        made = varied.history.nodes[-4:-1]
        assert [node.cost for node in made] == [sampler_from_string(written).refining().cost()] * 3
    for written in (SMALL, f"{SMALL},objective=maximise"):  # the same random numbers
        rewards[written] = torch.stack([node.rewards for node in session(alpha=5.0).vary(3, sampler=written).history])
    plain, best = rewards.values()
    assert bool((best >= plain).all()) and bool((best > plain).any())


def test_branches_grow_in_any_order_and_again_is_another_try():
    def left(chain: Editing) -> Tensor:
        return chain.refine(strength=0.5, sampler=SMALL).refine(sampler=SMALL).tokens

    one, other = session(), session()
    a, b = left(one), one.back(0).vary(2, strength=0.9, sampler=SMALL).tokens
    base = other.refine(strength=0.5, sampler=SMALL)
    d = other.vary(2, strength=0.9, sampler=SMALL).tokens
    c = base.refine(sampler=SMALL).tokens
    assert torch.equal(a, c) and torch.equal(b, d)
    tries = [session().history] + [one.refine(strength=1.0, sampler=SMALL).node for _ in range(4)]
    assert len({tuple(node.texts) for node in tries[1:]}) > 1


def test_a_row_does_not_depend_on_the_batch():
    def steps(chain: Editing) -> Editing:
        return chain.refine(strength=0.6, sampler=SMALL).vary(3, sampler=SMALL).refine(strength=1.0, sampler=SMALL)

    pool = OwnDrafts(n=4, steps=2)
    whole = steps(session(rows=[7, 8], reward=pool))
    chunked = steps(session(rows=[7, 8], reward=pool, max_rows=1))
    alone = steps(edit(FakeModel(), TEXTS[1:], prompts=PROMPTS[1:], reward=pool, alpha=0.3, room=1, rows=[8]))
    for node, same, one in zip(whole.history, chunked.history, alone.history, strict=True):
        assert torch.equal(node.tokens, same.tokens) and torch.equal(node.rewards, same.rewards)
        assert torch.equal(node.tokens[1], one.tokens[0]) and node.rewards[1] == one.rewards[0]


def test_the_best_of_every_row_may_come_from_another_node():
    chain = session().vary(3, strength=1.0, sampler=SMALL)
    best = chain.best()
    rewards = torch.stack([node.rewards for node in chain.history])
    assert torch.equal(best.rewards, rewards.amax(0))
    back = chain.back(0).back(best.nodes)
    assert back.node.sources == best.nodes and back.texts == best.texts and back.node.parent == 0
    assert [chain.history[k].texts[row] for row, k in enumerate(best.nodes)] == best.texts


def test_the_pool_is_drawn_once_and_charged_once():
    pool = OwnDrafts(n=4, steps=2)
    chain = session(reward=pool, seed=3)
    assert chain.cost == Cost(8, 1, 2)
    after = chain.refine(sampler=SMALL).refine(sampler=SMALL)
    assert after.cost == Cost(8, 1, 2) + sampler_from_string(SMALL).refining().cost() * 2
    drafts = draw_drafts(FakeModel(), PROMPTS, pool, seed=3)  # the very pool of `generate`
    assert after.rewards.tolist() == pytest.approx(drafts.reward()(after.texts, range(2)))
    one = iterref.refine(FakeModel(), TEXTS, prompts=PROMPTS, reward=pool, budget=(20, 100))
    assert one.cost.nfe == 20 and one.cost.reward_calls <= 100


def test_the_first_step_alone_is_the_one_call():
    options: dict[str, Any] = {"prompts": PROMPTS, "reward": beta, "alpha": 0.3, "seed": 4}
    one = iterref.refine(FakeModel(), TEXTS, strength=0.6, sampler=SMALL, **options)
    assert torch.equal(one.tokens, edit(FakeModel(), TEXTS, **options).refine(strength=0.6, sampler=SMALL).tokens)
    again = iterref.refine(FakeModel(), one.tokens, sampler=SMALL, **options)  # finished canvases are texts too
    assert again.history[0].texts == one.texts


@pytest.mark.parametrize("distance", ["share", "edit"])
def test_drift_is_bounded_and_without_a_bound_it_is_not(distance):
    n, bound = 40, 0.34
    options: dict[str, Any] = {"prompts": ["one two"] * n, "reward": beta, "alpha": 0.2, "distance": distance}
    first = ["gamma alpha delta"] * n
    held = edit(OneLaw(), first, drift=bound, **options).refine(strength=1.0, sampler=SMALL).vary(2, sampler=SMALL)
    loose = edit(OneLaw(), first, **options).refine(strength=1.0, sampler=SMALL).vary(2, sampler=SMALL)
    assert all(float(node.drift.max()) <= bound for node in held.history)
    assert float(held.drift.max()) > 0 and float(loose.drift.max()) > bound
    changed = (held.tokens != held.history[0].tokens).sum(1)
    assert int(changed.max()) == 1 or distance == "edit"  # what is shifted is one edit, and many changed places


def test_a_bound_of_zero_holds_the_texts_and_says_so():
    chain = session(drift=0.0).refine(strength=1.0, sampler=SMALL)
    assert chain.texts == TEXTS and chain.node.kept == ()
    kept = chain.infill(["[alpha] gamma", None], sampler="ancestral:steps=2")
    changed = not torch.equal(kept.result.tokens, chain.tokens) if kept.result else False
    assert kept.texts == TEXTS and (kept.node.kept == (0,)) == changed
    assert kept.rewards.tolist() == beta(TEXTS)


def test_a_row_that_finds_nothing_allowed_keeps_its_text():
    def never_row_0(completions: list[str], rows: list[int]) -> list[float]:
        return [0.0 if row else -torch.inf for row in rows]

    chain = session(reward=never_row_0).infill(["[alpha gamma]", "[gamma] alpha delta"], sampler=SMALL)
    assert chain.texts[0] == TEXTS[0] and chain.node.kept == (0,)
    assert "row 0 kept the text" in str(chain)


def test_a_text_that_is_forbidden_at_the_start_is_left():
    def no_gamma(completions: list[str]) -> list[float]:
        return [-torch.inf if "gamma" in text else 0.0 for text in completions]

    chain = session(reward=no_gamma, alpha=1.0).refine(strength=1.0, sampler="iterref:moves=20,tries=8")
    assert not any("gamma" in text for text in chain.texts)


def test_a_history_is_saved_read_and_gone_on_with(tmp_path):
    chain = session(drift=0.9, seed=2).refine(strength=0.7, sampler=SMALL)
    chain = chain.vary(2, sampler=SMALL)
    chain.save(tmp_path / "session.jsonl")
    forbidden = chain.history.add(chain.node.__class__(
        0, 0, "pick", {}, chain.tokens, chain.texts, torch.tensor([-torch.inf, 0.1], dtype=torch.float64), chain.drift
    ))  # fmt: skip
    chain.save(tmp_path / "history.jsonl")
    read = History.load(tmp_path / "history.jsonl")
    assert str(read) == str(chain.history) and len(read) == len(chain.history)
    for node, same in zip(chain.history, read, strict=True):
        for name in ("id", "parent", "operation", "options", "texts", "path", "cost", "spent", "kept", "sources"):
            assert getattr(node, name) == getattr(same, name)
        assert torch.equal(node.tokens, same.tokens) and torch.equal(node.rewards, same.rewards)
        assert torch.equal(node.drift, same.drift)
    assert read[forbidden.id].rewards[0] == -torch.inf
    read = History.load(tmp_path / "session.jsonl")
    chain = replace(chain, history=read)
    resumed = edit(FakeModel(), read, prompts=PROMPTS, reward=beta, alpha=0.3, room=1, drift=0.9, seed=2)
    assert resumed.at == len(read) - 1 and resumed.result is None
    there, here = resumed.back(chain.at).refine(sampler=SMALL), chain.refine(sampler=SMALL)
    assert torch.equal(there.tokens, here.tokens) and there.cost == here.cost


def test_a_file_that_is_no_history_is_refused(tmp_path):
    refused = {"": "is no history", "[1]\n": "is no history", '{"format": "x-9"}\n': "written as 'x-9'"}
    for text, sentence in refused.items():
        (tmp_path / "file").write_text(text)
        with pytest.raises(ValueError, match=sentence):
            History.load(tmp_path / "file")


def test_the_tree_is_readable():
    chain = session().refine(sampler=SMALL)
    chain = chain.refine(sampler=SMALL).back(0).refine(strength=0.9, sampler=SMALL)
    lines = str(chain.history).splitlines()
    assert [line.split(" reward")[0].rstrip()[:14] for line in lines] == [
        "0 start", "├─ 1 refine st", "│  └─ 2 refine", "└─ 3 refine st"]  # fmt: skip
    assert chain.history.tree(1).splitlines()[0].endswith(TEXTS[1])
    assert str(History()) == "an empty history"
    assert "at node 3" in str(chain)


def test_a_failing_reward_leaves_the_history_as_it_was():
    chain = session(reward=fails_after(3))
    with pytest.raises(RewardError, match="KeyError"):
        chain.refine(sampler="iterref:moves=40,tries=4", strength=1.0)
    assert len(chain.history) == 1


@pytest.mark.parametrize(
    ("written", "strength", "becomes"),
    [
        ("iterref", 0.3, "iterref:steps=0,span=0.3+0.15"),
        ("iterref", 0.5, "iterref:steps=0,span=0.5+0.25"),
        ("iterref", 0.6, "iterref:steps=0,span=0.6+0.3,spacing=0"),
        ("iterref:adapt=true,spacing=0", 1, "iterref:steps=0,span=1.0,spacing=0,adapt=True"),
        ("metropolis", 0.2, "metropolis:steps=0,span=0.2+0.1"),
    ],
)
def test_a_strength_is_the_span_and_its_half(written, strength, becomes):
    assert str(strengthened(written, strength)) == becomes
    assert strengthened(becomes, strength) == strengthened(written, strength)


REFUSED: list[tuple[Any, str]] = [
    (lambda: session(prompts=["one"]), "2 texts for 1 prompts"),
    (lambda: edit(FakeModel(), "one string", prompts=PROMPTS, reward=beta), "the texts are one string"),
    (lambda: edit(FakeModel(), ["alpha", 3], prompts=PROMPTS, reward=beta), "text 1 is an int"),
    (lambda: edit(FakeModel(), History(), prompts=PROMPTS, reward=beta), "the history is empty"),
    (lambda: infill(FakeModel(), "a [b]", prompts=PROMPTS, reward=beta), "the texts are one string"),
    (lambda: infill(FakeModel(), ["alpha", "[beta]"], prompts=PROMPTS, reward=beta), "text 0 marks nothing"),
    (lambda: session(drift=1.5), r"bound must lie in \[0, 1\], got 1.5"),
    (lambda: session(distance="far"), "unknown distance 'far'"),
    (lambda: session(room=-1), "room is how many tokens"),
    (lambda: session(forbidden=[2]), "row 0, position 1: token 2 cannot stand there"),
    (lambda: session(columns={"tone": ["a"]}), "column 'tone' has 1 entries"),
    (lambda: session().refine(strength=0.0), r"strength must lie in \(0, 1\], got 0.0"),
    (lambda: session().refine(strength=1.2), r"strength must lie in \(0, 1\]"),
    (lambda: session().refine(sampler="best_of_n"), "cannot start from given texts"),
    (lambda: session().refine(budget=0), "a positive NFE"),
    (lambda: session().vary(0), "at least one alternative"),
    (lambda: session().vary(2, sampler="iterref:moves=0"), "without a move are all the same"),
    (lambda: session().vary(2, take="last"), "take is 'best' or 'first'"),
    (lambda: session().back(7), "there is no node 7: the history has nodes 0 to 0"),
    (lambda: session().back([0]), "1 nodes for 2 rows"),
    (lambda: session().history.tree(5), "there is no row 5"),
    (lambda: session().infill(["[alpha] gamma"]), "1 texts for 2 rows"),
    (lambda: session().infill("[alpha] gamma"), "marked= is one string: pass a list"),
    (lambda: session().infill([None, None]), "every row is None"),
    (lambda: session().infill([None, "[beta] alpha"]), "text 1 reads 'beta alpha' without its marks"),
    (lambda: session().infill(["alpha [] gamma", None], length=0), "at least 1 token"),
    (lambda: session().infill(["alpha [] gamma", None], length=1, strength=0.5), "leave out the strength"),
    (lambda: session(room=0).infill(["alpha [] gamma", None], length=1), "row 0, position 2: .* more room"),
    (lambda: iterref.refine(FakeModel(), TEXTS, prompts=PROMPTS, budget=128), "no room after the 128 NFE"),
]


@pytest.mark.parametrize(("attempt", "sentence"), REFUSED, ids=[sentence[:28] for _, sentence in REFUSED])
def test_bad_input_is_refused_with_one_sentence(attempt, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        attempt()
    assert "\n" not in str(caught.value)


def test_a_model_that_takes_no_empty_text_can_be_refined_but_not_infilled():
    class Strict(FakeModel):
        def encode(self, texts: Sequence[str]) -> Tensor:
            if not all(texts):
                raise ValueError("text 0 is empty")
            return super().encode(texts)

    chain = edit(Strict(), TEXTS, prompts=PROMPTS, reward=beta, room=1).refine(sampler=SMALL)
    assert bool(chain.context.problem.may_change.all())  # where the padding begins is not known
    with pytest.raises(ValueError, match="takes? an empty text"):
        chain.infill([f"[{chain.texts[0]}]", None])


DOCUMENTS = [
    "Police in London arrested two men on Monday after a fire in a disused textile mill, the fire service said.",
    "Engineers have repaired the damaged railway bridge at Stoke Ferry, and trains will run again on Tuesday.",
]


def test_the_bundled_model_keeps_the_text_outside_the_marks():
    texts = ["Police [arrest two men] in London.", "engineers [] repaired the [railway bridge] at stoke ferry ."]
    done = infill(tiny_news(), texts, prompts=DOCUMENTS, length=2, reward=lambda completions: [0.0] * len(completions),
                  sampler="iterref:steps=2,moves=2,tries=2", temperature=0.7)  # fmt: skip
    assert done.texts[0].startswith("Police ") and done.texts[0].endswith(" in London.")  # as it was written
    assert done.texts[1].startswith("engineers") and done.texts[1].endswith(" at stoke ferry .")
    assert "repaired the" in done.texts[1]
    held = edit(tiny_news(), done.tokens, prompts=DOCUMENTS, reward=lambda completions: [0.0] * len(completions),
                drift=0.3).refine(strength=0.3, sampler="iterref:moves=3,tries=2")  # fmt: skip
    assert float(held.drift.max()) <= 0.3


def test_texts_of_other_types_are_refused_and_columns_are_read_by_position() -> None:
    """Before: a float tensor was cut to whole numbers, `parent="no"` was true, a Series of marked texts a traceback."""
    def begun(texts: Any = ("alpha", "beta gamma")) -> Editing:
        return edit(FakeModel(), texts, prompts=["one", "one two"], reward=beta, room=None)

    for wrong in (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), torch.zeros(2, 3, dtype=torch.bool)):
        with pytest.raises(TypeError, match=r"the texts are a tensor \(2.*: give token ids \(B, L\)"):
            begun(wrong)
    with pytest.raises(TypeError, match="parent= is a str .'no'.: pass True or False"):
        begun().vary(2, parent="no", sampler="iterref:moves=1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="progress= is a str"):
        begun().refine(progress="no", sampler="iterref:moves=1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the marked text 0 is a bytes"):
        begun().infill([b"[alpha]", None])  # type: ignore[list-item]
    marked, method = ["[alpha]", None], "iterref:steps=2,moves=1"
    series = pd.Series(marked, index=[1, 0])
    assert begun().infill(series, sampler=method).texts == begun().infill(marked, sampler=method).texts
