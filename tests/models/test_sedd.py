"""SEDD checkpoints: scores made posteriors, the published step, and what is refused.

Compared with louaaron/Score-Entropy-Discrete-Diffusion at 0605786d (model/transformer.py, graph_lib.py; flash-attn
replaced by torch's attention) on the same random weights, in float32 on a CPU, L = 64 and 1024: log-scores are the same
bits, posteriors differ by at most 3.8e-8, the law of an analytic step with scores that add up by 2.9e-7.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iterref.check import check
from iterref.denoiser import from_score
from iterref.exact.table import Table
from iterref.loading import load
from iterref.models.text.prefix import PrefixModel
from iterref.noise import Noise, absorbing, uniform
from tests.support.published import (
    END,
    LENGTH,
    all_states,
    noisy_tokens,
    product_matrix,
    reference_logits,
    sedd_config,
    step_matrix,
    tokenizer,
    weights,
    write,
)
from tests.support.worlds import random_table


def small(folder, tokens=11) -> PrefixModel:
    return load(write(folder, sedd_config(tokens), weights(tokens + 1), prefix=""), tokenizer="none")


def sigma(t: float | Tensor) -> Tensor:
    """The published noise level."""
    return -torch.log1p(-(1 - 1e-3) * torch.as_tensor(t, dtype=torch.float64))


def log_scores(w: dict[str, Tensor], x: Tensor, level: Tensor) -> Tensor:
    """The published network's log-scores (R, L, V): shifted by the level, the own token's zero."""
    raw = reference_logits(w, x, level)
    shift = torch.log(torch.expm1(level))[:, None, None] + torch.log(torch.tensor(raw.shape[-1] - 1.0))
    return (raw - shift).scatter(-1, x[..., None], 0.0)


def test_the_law_at_a_mask_is_the_normalised_score(tmp_path):
    model, x = small(tmp_path), noisy_tokens(5, 12, 11)
    t = torch.linspace(0.1, 1, 5, dtype=torch.float64)
    masked = x == 11
    want = log_scores(weights(12), x, sigma(t))[masked][:, :-1].softmax(-1)
    got = model.denoiser(x, t, masked, torch.zeros(5, dtype=torch.long)).exp()
    torch.testing.assert_close(got[:, :-1].double(), want, atol=1e-6, rtol=0)
    assert got[:, -1].max() == 0
    backwards = log_scores(weights(12), x, sigma(1.001 - t))[masked][:, :-1].softmax(-1)  # negative control
    assert float((got[:, :-1] - backwards).abs().max()) > 1e-3


def analytic(log_score: Tensor, noisy: Tensor, t: float, u: float) -> Tensor:
    """The published analytic step's law (S, L, V): the staggered score times the way back."""
    mask, apart = log_score.shape[-1] - 1, sigma(t) - sigma(u)
    score = log_score.exp()
    staggered = score * apart.exp()
    staggered[..., mask] += (1 - apart.exp()) * score.sum(-1)
    back = (-apart).exp() * torch.nn.functional.one_hot(noisy, mask + 1)
    back = back + (1 - (-apart).exp()) * (noisy == mask)[..., None]
    return staggered * back


@pytest.mark.parametrize(("t", "u"), [(1.0, 0.5), (0.7, 0.55), (0.4, 0.0)])
def test_one_step_is_the_published_sampler_s_where_scores_add_up(tmp_path, t, u):
    """And for any scores, the tokens that appear follow the published law: only when they appear may differ."""
    model, noisy = small(tmp_path, tokens=3), all_states(4, 2)
    raw = log_scores(weights(4), noisy, sigma(t).expand(len(noisy)))
    consistent = raw.clone()
    consistent[..., :3] = raw[..., :3].log_softmax(-1) - torch.log(torch.expm1(sigma(t)))
    masked = (noisy == 3)[..., None]
    consistent = torch.where(masked, consistent.index_fill(-1, torch.tensor([3]), 0.0), raw)
    cells = torch.where(masked, analytic(consistent, noisy, t, u), torch.nn.functional.one_hot(noisy, 4).double())
    got = step_matrix(model.denoiser, noisy, t, u)
    torch.testing.assert_close(got, product_matrix(cells, noisy), atol=1e-6, rtol=0)
    theirs = analytic(raw, noisy, t, u)[(noisy == 3)]
    ours = cells[(noisy == 3)]
    torch.testing.assert_close(
        theirs[:, :3] / theirs[:, :3].sum(-1, keepdim=True), ours[:, :3] / ours[:, :3].sum(-1, keepdim=True)
    )
    assert float((theirs[:, :3].sum(-1) - ours[:, :3].sum(-1)).abs().max()) > 0.01  # these scores do not add up


def exact_log_scores(table: Table, x_t: Tensor, t: float) -> Tensor:
    """log p_t(x_t with v at i) - log p_t(x_t), (R, L, V), summed state by state."""
    noisy, log_p = table.noisy_states(), table.log_marginal(t)
    number = {tuple(state): at for at, state in enumerate(noisy.tolist())}
    scores = torch.empty(*x_t.shape, table.noise.vocab, dtype=torch.float64)
    for row, state in enumerate(x_t.tolist()):
        for i in range(len(state)):
            for v in range(table.noise.vocab):
                scores[row, i, v] = log_p[number[tuple(state[:i] + [v] + state[i + 1 :])]] - log_p[number[tuple(state)]]
    return scores


SKEWED = Noise(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64))


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "skewed"])
@pytest.mark.parametrize("t", [0.05, 0.6, 0.95])
def test_exact_scores_give_exact_posteriors(kind, t):
    table = random_table("absorbing" if kind == "absorbing" else "uniform", 2, 3, seed=4, coupling=1.0)
    if kind == "skewed":
        table = Table(table.log_p.view(3, 3), SKEWED)
    x_t = table.noisy_states()
    where, times = torch.ones_like(x_t, dtype=torch.bool), torch.full((len(x_t),), t, dtype=torch.float64)
    scores = exact_log_scores(table, x_t, t)[where]
    want = table(x_t, times, where, times.long()).exp()
    got = from_score(scores, x_t, times, where, table.noise).exp()
    torch.testing.assert_close(got, want, atol=1e-10, rtol=0)
    shifted = from_score(scores + 0.7, x_t, times, where, table.noise).exp()
    if kind == "absorbing":
        torch.testing.assert_close(shifted, want, atol=1e-10, rtol=0)
    else:  # negative control: a shift matters, the own token's score being one
        assert float((shifted - want).abs().max()) > 1e-3


@pytest.mark.parametrize("noise", [absorbing(4), uniform(3), SKEWED], ids=["absorbing", "uniform", "skewed"])
def test_inexact_scores_still_give_laws(noise):
    x_t = torch.randint(0, 3, (6, 5), generator=torch.Generator().manual_seed(0))
    where, times = torch.ones_like(x_t, dtype=torch.bool), torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    scores = 3 * torch.randn(30, noise.vocab, generator=torch.Generator().manual_seed(1))
    law = from_score(scores, x_t, times, where, noise).exp()
    torch.testing.assert_close(law.sum(1).double(), torch.ones(30, dtype=torch.float64))


def test_it_passes_the_check_of_form(tmp_path):
    findings = check(small(tmp_path).denoiser, noisy_tokens(4, 11, None))
    assert not [finding for finding in findings if finding.passed is False]


def test_canvases_begin_with_the_prompt(tmp_path):
    size = tokenizer(tmp_path, [END])
    model = load(write(tmp_path, sedd_config(size), weights(size + 1), prefix=""))
    _, canvas, free = model.prepare(["the cat"])
    assert canvas[0, :3].tolist() == [0, 1, size] and model.noise.mask == size and free.sum() == LENGTH - 2
    assert model.decode(model.encode(["the cat ran"])) == ["the cat ran"]


def test_what_is_not_read_is_refused(tmp_path):
    for graph, noise in (("uniform", "loglinear"), ("absorb", "geometric")):
        write(tmp_path, sedd_config(11, graph, noise), weights(12), prefix="")
        with pytest.raises(ValueError, match=f"trained on the graph '{graph}' with '{noise}' noise"):
            load(tmp_path, tokenizer="none")
    size = tokenizer(tmp_path, [END])
    write(tmp_path, sedd_config(size + 1), weights(size + 2), prefix="")
    with pytest.raises(ValueError, match=f"knows {size + 1} tokens and the tokenizer {size}"):
        load(tmp_path)
