"""SelfLikelihood: equal to the conditionals of an enumerated distribution, by masks and by leave-one-out."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import pytest
import torch
from torch import Tensor

from iterref import generate
from iterref.denoiser import Denoiser
from iterref.exact.table import Table
from iterref.noise import Noise
from iterref.rewards import Lexical, SelfLikelihood, checked
from tests.support.bundled import tiny_news
from tests.support.worlds import random_table

LENGTH, VOCAB = 4, 3


@dataclass
class Masked(Denoiser):
    """A table's denoiser without leave-one-out conditionals; keeps the times and the rows that it was asked for."""

    table: Table

    def __post_init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def noise(self) -> Noise:
        return self.table.noise

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        self.seen.append((t, where, rows))
        return self.table(x_t, t, where, rows)


def conditionals(table: Table, tokens: Tensor) -> Tensor:
    """log p(x^i | x^{-i}) of (R, L) texts by enumeration, (R, L)."""
    cells = torch.zeros(tokens.shape, dtype=torch.float64)
    for i in range(LENGTH):
        others = torch.stack([tokens.clone() for _ in range(VOCAB)])
        others[:, :, i] = torch.arange(VOCAB)[:, None]
        cells[:, i] = table.log_prob(tokens) - table.log_prob(others.flatten(0, 1)).view(VOCAB, -1).logsumexp(0)
    return cells


def problem(batch: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(batch, LENGTH, dtype=torch.long), torch.ones(batch, LENGTH, dtype=torch.bool)


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "masks"])
@pytest.mark.parametrize("value", ["mean", "sum"])
def test_it_is_the_sum_of_the_conditionals(kind: str, value: str) -> None:
    table = random_table("uniform" if kind == "uniform" else "absorbing", LENGTH, VOCAB, 1, 1.0)
    tokens, (canvas, free) = table.states(), problem(1)
    rows = torch.zeros(len(tokens), dtype=torch.long)
    denoiser = Masked(table) if kind == "masks" else table
    reward = SelfLikelihood(denoiser, canvas, free, value=value, max_rows=50)
    expected = conditionals(table, tokens).sum(1) / (LENGTH if value == "mean" else 1)
    torch.testing.assert_close(checked(reward, tokens, rows), expected, atol=1e-10, rtol=0)
    assert reward.passes == len(tokens) * (LENGTH if kind == "masks" else 1)
    # negative control: it is not the log-probability of the text, of which the model with coupling knows more
    assert float((reward(tokens, rows) - table.log_prob(tokens)).abs().max()) > 0.1


def test_only_free_positions_that_are_not_ignored_count() -> None:
    table = random_table("absorbing", LENGTH, VOCAB, 2, 1.0)
    tokens, rows = table.states()[:30], torch.arange(30) % 2
    free = torch.tensor([[True, False, True, True], [False, True, True, False]])
    cells = conditionals(table, tokens)
    for denoiser in (table, Masked(table)):
        found = SelfLikelihood(denoiser, torch.zeros(2, 4, dtype=torch.long), free)(tokens, rows)
        torch.testing.assert_close(found, (cells * free[rows]).sum(1) / free[rows].sum(1), atol=1e-10, rtol=0)
        ignoring = SelfLikelihood(denoiser, torch.zeros(2, 4, dtype=torch.long), free, ignore=[0])
        counted = free[rows] & (tokens != 0)
        expected = (cells * counted).sum(1) / counted.sum(1).clamp_min(1)
        expected[counted.sum(1) == 0] = -inf
        torch.testing.assert_close(ignoring(tokens, rows), expected, atol=1e-10, rtol=0)
        assert bool(expected.isneginf().any())


def test_groups_are_exact_for_a_product_and_cheaper_for_all() -> None:
    canvas, free = problem(1)
    product, coupled = (Masked(random_table("absorbing", LENGTH, VOCAB, 3, coupling)) for coupling in (0.0, 1.0))
    tokens = product.table.states()
    rows = torch.zeros(len(tokens), dtype=torch.long)
    for groups in (1, 2, 3, 9):
        reward = SelfLikelihood(product, canvas, free, value="sum", groups=groups)
        torch.testing.assert_close(reward(tokens, rows), product.table.log_prob(tokens), atol=1e-10, rtol=0)
        assert reward.passes == len(tokens) * min(groups, LENGTH)
    few, all_ = (SelfLikelihood(coupled, canvas, free, value="sum", groups=groups) for groups in (2, 4))
    assert float((few(tokens, rows) - all_(tokens, rows)).abs().max()) > 0.1  # what hiding two at once costs


def test_times_are_those_of_the_hidden_share() -> None:
    denoiser = Masked(random_table("absorbing", LENGTH, VOCAB, 3, 1.0))
    canvas, free = problem(2)
    tokens, rows = denoiser.table.states()[:6], torch.tensor([0, 1, 1, 0, 1, 0])
    SelfLikelihood(denoiser, canvas, free, groups=2, max_rows=5)(tokens, rows)
    assert [len(t) for t, _, _ in denoiser.seen] == [5, 5, 2]
    times = torch.cat([t for t, _, _ in denoiser.seen])
    torch.testing.assert_close(times, torch.full((12,), 0.5, dtype=torch.float64))
    assert torch.cat([asked for _, _, asked in denoiser.seen]).tolist() == rows.repeat_interleave(2).tolist()


def test_a_text_that_the_model_rules_out_is_forbidden() -> None:
    log_p = torch.zeros(2, 2).double()
    log_p[0, 1] = log_p[1, 0] = -inf
    table = Table(log_p, random_table("absorbing", 2, 2, 0, 0.0).noise)
    canvas, free = torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool)
    reward = SelfLikelihood(Masked(table), canvas, free)
    assert checked(reward, torch.tensor([[0, 0], [1, 1]]), torch.tensor([0, 0])).tolist() == [0.0, 0.0]


def test_mistakes_are_named() -> None:
    table = random_table("uniform", LENGTH, VOCAB, 0, 1.0)
    canvas, free = problem(1)
    with pytest.raises(ValueError, match="neither a mask nor leave-one-out conditionals"):
        SelfLikelihood(Masked(table), canvas, free)
    with pytest.raises(ValueError, match="no value 'median'"):
        SelfLikelihood(table, canvas, free, value="median")
    with pytest.raises(ValueError, match=r"shape \(1, 3\), the canvas \(1, 4\)"):
        SelfLikelihood(table, canvas, free[:, :3])
    with pytest.raises(ValueError, match="groups=0"):
        SelfLikelihood(table, canvas, free, groups=0)


def test_the_bundled_model_likes_its_own_samples() -> None:
    model = tiny_news()
    prompts = ["police arrested a man in the city on monday after a long chase ."]
    fluent = SelfLikelihood(*model.prepare(prompts), ignore=[model.eos], groups=8)
    result = generate(model, prompts, reward=fluent + 0.1 * Lexical(words=(3, None), hard=False),
                      sampler="best_of_n:n=4,steps=4", seed=0)  # fmt: skip
    shuffled = model.encode(["a the of of to to man in"])
    assert float(result.rewards[0]) > float(fluent(shuffled, torch.tensor([0]))[0]) + 1
    alone = [float(fluent(text[None], torch.tensor([0]))[0]) for text in torch.cat([result.tokens, shuffled])]
    assert fluent(torch.cat([result.tokens, shuffled]), torch.tensor([0, 0])).tolist() == pytest.approx(alone, abs=1e-5)
