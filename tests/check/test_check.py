"""The check: exact models pass it, and every broken convention is found by the finding that is named after it."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor

from iterref.check import Finding, check, check_model, table
from iterref.demo import sentences
from iterref.denoiser import Denoiser, carry_over, from_leave_one_out
from iterref.exact.markov import Markov, world
from iterref.loading import load
from iterref.models.dit import SCHEDULE, Dit, DitOptions
from iterref.models.mdlm import MaskedDit
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import Filling, PromptedModel
from iterref.models.tiny_news import Summarizer
from iterref.models.udlm import UniformDit
from iterref.noise import Noise, absorbing, uniform
from iterref.random import Rng
from tests.support.published import END, flat_config, tokenizer, weights, write
from tests.support.tokenizers import tokenizer as small_tokenizer
from tests.support.tokenizers import written

LENGTH, VOCAB = 12, 6
BUNDLED = cache(Summarizer.load)
NONE = torch.zeros(0, dtype=torch.long)
WORLDS = {kind: world(LENGTH, VOCAB, seed=0, noise=kind)[0] for kind in ("absorbing", "uniform")}


def texts(kind: str, rows: int = 40, seed: int = 1) -> Tensor:
    return WORLDS[kind].sample(Rng.seeded(seed, rows))


def failed(findings: list[Finding]) -> set[str]:
    return {finding.name for finding in findings if finding.passed is False}


@dataclass
class Adapter(Denoiser):
    """A denoiser of other conventions: `answer` gets the exact model and the arguments."""

    answer: Callable[..., Tensor]
    kind: str = "absorbing"
    noise: Noise | None = None
    time_independent: bool = False

    def __post_init__(self) -> None:
        self.noise = self.noise or WORLDS[self.kind].noise

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self.answer(WORLDS[self.kind], x_t, t, where, rows)


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("seed", range(3))
def test_exact_models_pass(kind, seed):
    findings = check(WORLDS[kind], texts(kind, seed=seed), real=True, seed=seed)
    assert failed(findings) == set()
    judged = {finding.name for finding in findings if finding.passed}
    assert {"shape", "inputs", "normalisation", "packing", "rows", "carry-over", "prediction", "shift"} <= judged
    assert ("mask" if kind == "absorbing" else "posterior") in judged and "direction" in judged


def exact(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    return model(x_t, t, where, rows)


def overwriting(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    law = model(x_t, t, where, rows)
    x_t[where] = 0
    return law


def unnormalised(*arguments: object) -> Tensor:
    return exact(*arguments) + 0.1


def column_major(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    full = model(x_t, t, torch.ones_like(where), rows).view(*where.shape, -1)
    return full.transpose(0, 1)[where.T]


def mixing_rows(*arguments: object) -> Tensor:
    law = exact(*arguments)
    clear = law.exp()
    return torch.log(0.9 * clear + 0.1 * clear.mean(0, keepdim=True))


def mask_possible(*arguments: object) -> Tensor:
    law = exact(*arguments).clone()
    law[:, VOCAB] = -5.0
    return torch.log_softmax(law, -1)


def nothing_carried(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    law = model(x_t, t, where, rows).exp()
    law[:, :VOCAB] = 0.9 * law[:, :VOCAB] + 0.1 / VOCAB
    return law.log()


def shifted(by: int) -> Callable[..., Tensor]:
    def answer(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        full = model(x_t, t, torch.ones_like(where), rows).view(*where.shape, -1)
        law = full.roll(by, 1)[where]
        return carry_over(law.clamp_min(-20.0), x_t, where, model.noise.mask)

    return answer


def feels_time(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    return torch.log_softmax(model(x_t, t, where, rows) / (0.8 + 0.2 * float(t[0])), -1)


def feels_prompts(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    law = model(x_t, t, where, rows)
    return torch.log_softmax(law / (1 + 0.1 * rows[where.nonzero()[:, 0], None]), -1)


def overwriting_all(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    law = model(x_t, t, where, rows)
    where[:] = False
    return law


def no_tensor(*arguments: object) -> object:
    return exact(*arguments).numpy()


def wrong_shape(*arguments: object) -> Tensor:
    return exact(*arguments)[:, :-1]


def undefined(*arguments: object) -> Tensor:
    return exact(*arguments) * torch.nan


@pytest.mark.parametrize(
    ("answer", "options", "finding"),
    [
        (wrong_shape, {}, "shape"),
        (undefined, {}, "shape"),
        (no_tensor, {}, "shape"),
        (overwriting, {}, "inputs"),
        (overwriting_all, {}, "inputs"),
        (unnormalised, {}, "normalisation"),
        (column_major, {}, "packing"),
        (mixing_rows, {}, "rows"),
        (mask_possible, {}, "mask"),
        (nothing_carried, {}, "carry-over"),
        (shifted(1), {}, "shift"),
        (shifted(-1), {}, "shift"),
        (feels_time, {"time_independent": True}, "time"),
    ],
)
def test_a_broken_convention_is_found(answer, options, finding):
    found = failed(check(Adapter(answer, **options), texts("absorbing"), real=True))
    assert finding in found
    if finding not in ("shape", "packing", "rows", "shift"):  # those show elsewhere too
        assert found <= {finding, "carry-over"}


def test_prompts_that_are_said_not_to_matter_do_not():
    for feels in (True, False):
        adapter = Adapter(feels_prompts)
        adapter.uses_prompts = feels
        assert ("rows" in failed(check(adapter, texts("absorbing"), rows=torch.arange(40)))) != feels


def test_forbidden_tokens_are_looked_for():
    def without_two(*arguments: object) -> Tensor:
        law = exact(*arguments).clone()
        law[:, 2] = -torch.inf
        return torch.log_softmax(law, -1)

    x = texts("absorbing")
    x = torch.where(x == 2, 3, x)
    assert failed(check(Adapter(without_two), x, forbidden=[2])) == set()
    assert failed(check(Adapter(exact), x, forbidden=[2])) == {"forbidden"}


def left_out(model: Markov, x_t: Tensor, t: Tensor, where: Tensor) -> Tensor:
    """The leave-one-out prediction p(x_0^i | x_t^-i), as a UDLM network makes it."""
    likelihood = model.noise.likelihood(x_t, t)[where].log()
    return torch.log_softmax(model(x_t, t, where, t.long()) - likelihood, -1)


def as_posterior(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    return left_out(model, x_t, t, where)


def counted_twice(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    return from_leave_one_out(model(x_t, t, where, rows), x_t, t, where, model.noise)


def backwards(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    return model(x_t, 1 - t, where, rows)


def network_backwards(model: Markov, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    return from_leave_one_out(left_out(model, x_t, 1 - t, where), x_t, t, where, model.noise)


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (as_posterior, "posterior"),
        (counted_twice, "posterior"),
        (backwards, "direction"),
        (network_backwards, "direction"),
    ],
)
def test_a_wrong_reading_under_uniform_noise_is_found(answer, finding):
    assert failed(check(Adapter(exact, "uniform"), texts("uniform"), real=True)) == set()
    assert finding in failed(check(Adapter(answer, "uniform"), texts("uniform"), real=True))


def test_meaning_is_not_judged_without_real_texts():
    noise = torch.randint(0, VOCAB, (6, LENGTH), generator=torch.Generator().manual_seed(0))
    findings = check(Adapter(backwards, "uniform"), noise)
    assert {finding.name for finding in findings if finding.sentence == "needs real texts"} == {
        "prediction", "shift", "direction", "posterior",
    }  # fmt: skip


def test_frozen_positions_and_short_texts():
    free = torch.zeros(4, LENGTH, dtype=torch.bool)
    free[:, 5:7] = True
    assert failed(check(WORLDS["uniform"], texts("uniform", 4), free, real=True)) == set()
    one = {kind: Markov(torch.zeros(VOCAB), torch.zeros(0, VOCAB, VOCAB), 1, w.noise) for kind, w in WORLDS.items()}
    for kind, model in one.items():
        findings = {finding.name: finding for finding in check(model, texts(kind)[:, :1], real=True)}
        assert findings["shift"].passed is None and failed(list(findings.values())) <= {"prediction"}
    for few in (texts("uniform", 1), texts("uniform", 4)):
        with pytest.raises(ValueError, match="two texts or more, each with a free position"):
            check(WORLDS["uniform"], few, torch.zeros_like(few, dtype=torch.bool))


def test_the_table_names_what_failed():
    written = table(check(Adapter(unnormalised), texts("absorbing"))).splitlines()
    assert [line.split()[1] for line in written if line.startswith("FAIL")] == ["normalisation"]
    assert written[0].startswith("pass shape") and any(line.startswith("-    shift") for line in written)


# A trained network


def trained(kind: str) -> Dit:
    """A small DiT that learned a world's texts: the masked loss, or cross-entropy of leave-one-out predictions."""
    model, masked = WORLDS[kind], kind == "absorbing"
    noise = absorbing(VOCAB + 2, VOCAB, SCHEDULE) if masked else uniform(VOCAB, SCHEDULE)
    torch.manual_seed(0)
    network = Dit(DitOptions(noise.vocab, width=32, blocks=1, heads=2, condition=16))
    weights = list(network.parameters())
    pace = [torch.zeros_like(weight) for weight in weights]
    size = [torch.zeros_like(weight) for weight in weights]
    rng = Rng.seeded(100, 200 * 48)
    clean, times = model.sample(rng), rng.fork("t").uniform(1)
    noisy = noise.corrupt(clean, torch.ones(1, dtype=torch.float64), noise.a(times), rng.fork("corrupt"))
    batches = zip(*(pool.split(48) for pool in (clean, noisy, times[:, 0])), strict=True)
    for step, (x_0, x_t, t) in enumerate(batches, 1):
        where = x_t == VOCAB if masked else torch.ones_like(x_t, dtype=torch.bool)
        logits = network(x_t, -torch.log(noise.a(t)).float(), where)
        if not masked:
            logits = from_leave_one_out(logits, x_t, t, where, noise)
        loss = torch.nn.functional.cross_entropy(logits, x_0[where])
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():  # Adam, without the seconds that importing torch's takes
            for weight, gradient, mean, square in zip(weights, gradients, pace, size, strict=True):
                mean.lerp_(gradient, 0.1)
                square.lerp_(gradient.square(), 0.05)
                weight -= 0.01 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.95**step)).sqrt() + 1e-8)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def masked_dit() -> MaskedDit:
    return MaskedDit(trained("absorbing"), absorbing(VOCAB + 2, VOCAB, SCHEDULE), torch.tensor([VOCAB + 1]))


@pytest.fixture(scope="module")
def uniform_dit() -> UniformDit:
    return UniformDit(trained("uniform"), uniform(VOCAB, SCHEDULE), NONE)


def test_trained_networks_pass(masked_dit, uniform_dit):
    assert failed(check(masked_dit, texts("absorbing", 200), real=True, forbidden=[VOCAB + 1])) == set()
    assert failed(check(uniform_dit, texts("uniform", 200), real=True)) == set()


def test_a_wrong_mask_id_is_found(masked_dit):
    """A token of the texts at once; one that never stands in a text by what it predicts."""
    x = texts("absorbing", 200)
    word = replace(masked_dit, noise=absorbing(VOCAB + 2, 2, SCHEDULE), impossible=torch.tensor([VOCAB, VOCAB + 1]))
    assert "mask" in failed(check(word, x, real=True))
    unused = replace(masked_dit, noise=absorbing(VOCAB + 2, VOCAB + 1, SCHEDULE), impossible=torch.tensor([VOCAB]))
    assert "prediction" in failed(check(unused, x, real=True))


class Backwards(UniformDit):
    """Reads t = 0 as noise where the network is asked."""

    def logits(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return super().logits(x_t, 1 - t, where, rows)


class AsPosterior(UniformDit):
    """Takes the leave-one-out prediction for the posterior."""

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return torch.log_softmax(self.logits(x_t, t, where, rows), -1)


@pytest.mark.parametrize(("wrong", "finding"), [(Backwards, "direction"), (AsPosterior, "posterior")])
def test_a_wrong_reading_of_a_trained_network_is_found(uniform_dit, wrong, finding):
    denoiser: Denoiser = wrong(uniform_dit.network, uniform_dit.noise, uniform_dit.impossible)
    assert finding in failed(check(denoiser, texts("uniform", 200), real=True))


# Text models


def news(rows: int) -> list[dict[str, str]]:
    return sentences()[:rows]


def test_the_bundled_model_passes():
    pairs, model = news(5), BUNDLED()
    findings = check_model(model, [one["summary"] for one in pairs], [one["document"] for one in pairs])
    assert failed(findings) == set()
    assert {"tokenizer", "prompts"} <= {finding.name for finding in findings if finding.passed}


@pytest.mark.parametrize("kind", ["mdlm", "DUO"])
def test_a_checkpoint_is_checked_with_its_texts_or_without(tmp_path, kind):
    size = tokenizer(tmp_path, [END])
    model = load(write(tmp_path, flat_config(kind, size + 1), weights(size + 1)))
    bare = check_model(model)
    assert failed(bare) == set() and not {"tokenizer", "prompts"} & {finding.name for finding in bare}
    findings = {finding.name: finding for finding in check_model(model, ["the cat saw a dog", "a man ran home"] * 4)}
    assert findings["tokenizer"].passed and findings["prompts"].passed
    # it has learned nothing, so that its laws may happen to be better read otherwise
    assert failed(list(findings.values())) <= {"prediction", "shift", "direction"}
    with pytest.raises(ValueError, match="2 texts and 1 prompts"):
        check_model(model, ["the cat", "a dog"], ["the"])


class Padded(Summarizer):
    """Feels the padding of shorter prompts."""

    def prepare(self, prompts):
        denoiser, canvas, free = super().prepare(prompts)
        memory = replace(denoiser.memory, present=torch.ones_like(denoiser.memory.present))
        return replace(denoiser, memory=memory), canvas, free


class Stammering(Summarizer):
    """Decodes every text with a word too many."""

    def decode(self, tokens):
        return [f"{text} the" for text in super().decode(tokens)]


@pytest.mark.parametrize(("wrong", "finding"), [(Padded, "prompts"), (Stammering, "tokenizer")])
def test_a_broken_text_model_is_found(wrong, finding):
    pairs, model = news(5), copy(BUNDLED())
    model.__class__ = wrong
    found = check_model(model, [one["summary"] for one in pairs], [one["document"] for one in pairs])
    assert finding in failed(found)


class Framed:
    """A network that writes the words 5 and 6 in turn, and knows nothing beside special tokens if it `likes` none."""

    feels_padding = False

    def __init__(self, likes: bool) -> None:
        self.likes = likes

    def __call__(self, ids: Tensor, seen: Tensor | None, where: Tensor) -> Tensor:
        row, place = where.nonzero(as_tuple=True)
        begins = (ids[row, 0] == 2).long()
        word = 5 + (place - begins) % 2
        sure = 4.0 * (begins.bool() == self.likes)
        return torch.nn.functional.one_hot(word, 8).float() * sure[:, None]


@pytest.mark.parametrize("likes", [True, False])
def test_another_frame_that_fits_better_is_found(tmp_path, likes):
    made = small_tokenizer("words", ["the", "cat"])
    codec, noise = Codec.load(written(tmp_path, made)), absorbing(8, 4)
    bind = Filling(Framed(likes), noise, NONE, 6, tail=(3,))
    model = PromptedModel(bind, codec, bind.network, torch.device("cpu"), head=[2], ends=[3, 0], fill=0)
    texts = ["the cat the cat", "the cat the", "the cat"] * 4
    findings = {one.name: one for one in check_model(model, texts)}
    assert findings["frame"].passed == likes
    assert likes or "nats a token without special tokens around it" in findings["frame"].sentence
