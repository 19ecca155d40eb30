"""The training script of the bundled models of whole texts: canvases, losses, bounds, the published form, resuming."""

from __future__ import annotations

from itertools import islice
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.models import tiny_books
from iterref.loading import load
from iterref.models.dit import state

TEXTS = ["The cat sat. It ran!", 'He said: "Go home." She went.', "A dog, a boat and a very old house by the sea."]


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script with a small vocabulary and canvas."""
    for name, value in {"VOCAB": 40, "LENGTH": 9, "BATCH": 6, "REVIEWS": 2}.items():
        monkeypatch.setattr(tiny_books, name, value)
    monkeypatch.setattr(tiny_books, "SIZES", {"width": 16, "blocks": 2, "heads": 2, "condition": 8})
    return tiny_books


def drawn(books: Any, rows: int, seed: int = 0) -> torch.Tensor:
    """Canvases of random tokens that end somewhere."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.randint(2, books.VOCAB, (rows, books.LENGTH), generator=generator)
    size = torch.randint(3, books.LENGTH + 1, (rows, 1), generator=generator)
    return x_0.masked_fill(torch.arange(books.LENGTH) >= size, books.END).index_fill(1, torch.tensor([0]), books.START)


def test_canvases_hold_whole_sentences(books: Any) -> None:
    assert books.sentences('He said: "Go home." She went. Why?') == ['He said: "Go home."', "She went.", "Why?"]
    tokenizer = books.byte_pairs(iter(TEXTS), 400, ("<s>", "</s>"))
    size = [len(tokenizer.encode(one).ids) for one in ("The cat sat.", "It ran!")]
    books.LENGTH = 2 + sum(size)
    runs = [["The cat sat.", "It ran!", "The cat sat."], ["It ran!", TEXTS[2], "It ran!"]]
    found = books.canvases(tokenizer, runs)
    said = [tokenizer.decode(row) for row in found.tolist()]
    want = ["the cat sat . it ran !", "the cat sat .", "it ran !", "it ran !"]
    assert [" ".join(one.split()) for one in said] == want
    assert bool((found[:, 0] == books.START).all()) and bool((found[:, -1] == books.END).all())
    assert books.weights(found)[2].tolist() == pytest.approx([1.0] * (size[1] + 2) + [books.FILL] * size[0])


def test_batches_go_on_from_any_step(books: Any) -> None:
    texts = books.Texts(torch.arange(11)[:, None], 100 + torch.arange(5)[:, None])
    every = list(islice(books.batches(texts, 0, 7), 12))
    for step in (1, 5, 9):
        assert all(map(torch.equal, every[step:], islice(books.batches(texts, step, 7), 12 - step)))
    seen = torch.cat(every)[:, 0]
    assert set(torch.bincount(seen[seen < 100]).tolist()) == {48 // 11, 48 // 11 + 1}  # none again before all
    assert set(torch.bincount(seen[seen >= 100] - 100).tolist()) == {24 // 5, 24 // 5 + 1}
    other = list(islice(books.batches(texts, 0, 8), 12))
    assert not all(map(torch.equal, every, other))  # the control: another seed


def test_bounds_of_a_model_that_knows_nothing(books: Any) -> None:
    """A network that finds all tokens alike is exact for tokens at random: log V a position, under either noise."""
    x_0 = drawn(books, 60)
    open_, counted = 60 * (books.LENGTH - 1), int(books.spent(x_0).sum())
    for bound, vocab, tolerance in ((books.masked_bound, 41, 0.03), (books.uniform_bound, 40, 0.03)):
        learner = books.Learner(vocab, 0)
        learner.network.table.weight.data.zero_()
        assert bound(learner.network, x_0) == pytest.approx(open_ * log(40) / counted, rel=tolerance)
        learner.network.head.bias.data[5] = 6.0  # the control: one that is sure of a token, and mostly wrong
        assert bound(learner.network, x_0) > 1.1 * open_ * log(40) / counted


@pytest.mark.parametrize(("loss", "vocab", "family"), [("masked_loss", 41, "mdlm"), ("uniform_loss", 40, "udlm")])
def test_a_learner_learns_and_is_saved_in_the_published_form(books: Any, tmp_path: Path, loss, vocab, family) -> None:
    learner = books.Learner(vocab, 0)
    texts = books.Texts(drawn(books, 4, 1), drawn(books, 2, 2))  # six texts to learn by heart
    loop = books.Loop(learner, books.Plan(90, warmup=5, cooldown=30, average=0.9), getattr(books, loss))
    network = loop.run(lambda step: books.batches(texts, step, 0), tmp_path / "checkpoint.pt", every=50).network
    assert loop.curve[-1][2] < loop.curve[0][2]
    back = state(books.published(network))
    assert back.keys() == network.state_dict().keys()
    tokenizer = books.byte_pairs(iter(TEXTS), 300, ("<s>", "</s>"))
    books.save(network, tokenizer, tmp_path / family, family, family == "udlm")
    model = load(tmp_path / family, tokenizer="none")
    assert (model.noise.mask is None) == (family == "udlm") and model.length == books.LENGTH
    for name, weight in model.denoiser.network.state_dict().items():
        torch.testing.assert_close(weight, network.state_dict()[name], atol=2e-3, rtol=1e-3)
    bound = books.masked_bound if family == "mdlm" else books.uniform_bound
    x_0 = torch.cat((texts.books, texts.reviews)).repeat(8, 1)
    strange = drawn(books, 48, 9)
    rounded = books.rounded(network)
    assert bound(rounded, x_0) < 0.8 * bound(rounded, strange)  # the control: texts that it has not seen


def test_the_uniform_model_starts_from_the_masked_one(books: Any) -> None:
    masked, learner = books.Learner(41, 3), books.Learner(40, 4)
    learner.continued(masked.network)
    for name, weight in learner.network.state_dict().items():
        assert torch.equal(weight, masked.network.state_dict()[name][: len(weight)])


def test_the_uniform_loss_is_that_of_the_posterior(books: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against `from_leave_one_out`, on the tokens that the loss drew."""
    from iterref.denoiser import from_leave_one_out
    from iterref.models.dit import SCHEDULE
    from iterref.noise import uniform

    learner, x_0, asked = books.Learner(40, 0), drawn(books, 6), []

    class Spy(torch.nn.Module):
        network = staticmethod(lambda *call: asked.append(call) or learner.network(*call))

    torch.manual_seed(5)
    found = books.uniform_loss(Spy(), x_0)
    x_t, sigma, where = asked[0]
    t = SCHEDULE.time(torch.exp(-sigma.double()))
    law = from_leave_one_out(learner.network(x_t, sigma, where), x_t, t, where, uniform(40, SCHEDULE))
    nats = -law.gather(1, x_0[where][:, None])[:, 0] * books.weights(x_0)[where]
    torch.testing.assert_close(found, nats.sum() / where.sum(), atol=1e-5, rtol=1e-5)
    assert bool((x_t[:, 0] == books.START).all()) and not bool(where[:, 0].any())
