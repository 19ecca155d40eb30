"""The digit models: their form, their meaning on images of classes, and whether a judge recognises what they draw."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

from benchmarks.models.digits import CLASSES, FOLDERS, LENGTH, LEVELS, WEIGHTS, Digits
from benchmarks.rewards.digits import ClassNetwork, DigitClass, Judge, JudgeNetwork, Realism
from iterref.check import check
from iterref.guidance import ClassifierFreeGuidance
from iterref.problem import Problem
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

KINDS = tuple(FOLDERS)
WANTED = torch.arange(40) % CLASSES
SURE = 0.8  # what the judge recognises of plain samples; 0.1 is chance
DRAWN: dict[str, Tensor] = {}


def drawn(kind: str) -> Tensor:
    """Plain samples of all classes, four of each."""
    if kind not in DRAWN:
        denoiser, canvas, free = Digits.load(kind).prepare(WANTED)
        problem = Problem(denoiser, DigitClass(WANTED), canvas, free)
        DRAWN[kind] = sample(sampler_from_string("ancestral:steps=16"), problem, seed=3).tokens
    return DRAWN[kind]


def recognised(images: Tensor, classes: Tensor) -> float:
    return float((Judge().log_p(images).argmax(1) == classes).double().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundled_model_keeps_every_convention(kind):
    """Batch equals single, laws normalised and packed, and real meaning: drawn images are predicted best as stated."""
    denoiser, _, _ = Digits.load(kind).prepare(WANTED)
    findings = {finding.name: finding for finding in check(denoiser, drawn(kind), real=True)}
    assert not [finding for finding in findings.values() if finding.passed is False]
    assert findings["rows"].passed and findings["prediction"].passed
    assert (findings["mask"].passed is None) == (kind == "uniform")


@pytest.mark.parametrize("kind", KINDS)
def test_the_judge_recognises_plain_samples_and_not_under_other_classes(kind):
    """The judge never saw the model. Control: the same images under the classes of others."""
    assert recognised(drawn(kind), WANTED) >= SURE
    assert recognised(drawn(kind), WANTED.roll(1)) <= 1 - SURE


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_steers_and_none_is_any_class(kind):
    model = Digits.load(kind)
    x = model.noise.prior(LENGTH, _streams(20))
    t, where, rows = torch.full((20,), 0.9, dtype=torch.float64), torch.ones_like(x, dtype=torch.bool), torch.arange(20)
    laws = {label: model.prepare([label] * 20)[0](x, t, where, rows) for label in (0, 1, None)}
    assert float((laws[0].exp() - laws[1].exp()).abs().max()) > 0.2
    assert float((laws[0].exp() - laws[None].exp()).abs().max()) > 0.1
    mixture = ClassifierFreeGuidance(model.prepare([3])[0], model.prepare([None])[0], 2.0)
    assert check(mixture, drawn(kind)[:4])[0].passed


def test_uniform_conditionals_hardly_depend_on_their_own_token():
    """The loss asks for a leave-one-out law; control: the law of the noisy token itself must move a lot."""
    denoiser, _, _ = Digits.load("uniform").prepare(WANTED)
    x = drawn("uniform")
    other = torch.where(torch.arange(LENGTH) == 27, (x + 8) % LEVELS, x)
    where = (torch.arange(LENGTH) == 27).expand(x.shape)
    t = torch.full((len(x),), 0.2, dtype=torch.float64)

    def moved(law) -> float:
        return float((law(x) - law(other)).abs().sum(1).mean() / 2)

    assert moved(lambda y: denoiser.leave_one_out(y, where, torch.arange(len(y))).exp()) < 0.15
    assert moved(lambda y: denoiser(y, t, where, torch.arange(len(y))).exp()) > 0.5


def test_probabilities_are_those_of_the_log_law():
    denoiser, canvas, free = Digits.load("masked").prepare(WANTED)
    x = torch.where(torch.rand(canvas.shape, generator=torch.Generator().manual_seed(0)) < 0.5, canvas, drawn("masked"))
    t, rows = torch.ones(len(x), dtype=torch.float64), torch.arange(len(x))
    torch.testing.assert_close(denoiser.probabilities(x, t, free, rows), denoiser(x, t, free, rows).exp())
    assert float(denoiser.probabilities(x, t, free, rows)[:, LEVELS].max()) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_classes_of_rows_are_known_by_number(kind):
    """Row r of a question has the class of prompt rows[r]; control: other rows, another law."""
    denoiser, _, free = Digits.load(kind).prepare(WANTED)
    x, t = drawn(kind)[:3], torch.full((3,), 0.5, dtype=torch.float64)
    hidden = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.9
    x = torch.where(hidden, denoiser.noise.vocab - 1, x)
    rows = torch.tensor([7, 2, 39])
    alone = Digits.load(kind).prepare(WANTED[rows])[0](x, t, free[:3], torch.arange(3))
    torch.testing.assert_close(denoiser(x, t, free[:3], rows), alone, atol=1e-5, rtol=0)
    assert float((denoiser(x, t, free[:3], rows.flip(0)).exp() - alone.exp()).abs().max()) > 0.05


def test_rewards_and_judge_tell_classes_and_noise():
    images = drawn("masked")
    rows = torch.arange(len(images))
    assert float(DigitClass(WANTED)(images, rows).mean()) > -1 > float(DigitClass(WANTED.roll(1))(images, rows).mean())
    assert {type(DigitClass(WANTED).network), type(Judge().network)} == {ClassNetwork, JudgeNetwork}
    noise = torch.randint(LEVELS, images.shape, generator=torch.Generator().manual_seed(0))
    for kind in KINDS:
        realism = Realism(WANTED, kind)
        assert float(realism(images, rows).mean()) > float(realism(noise, rows).mean()) + 1
    assert Judge().features(images).dtype == DigitClass(WANTED)(images, rows).dtype == torch.float64


def test_a_reward_asks_for_the_class_of_a_row_by_its_number():
    images, rows = drawn("masked"), torch.arange(len(WANTED))
    whole = DigitClass(WANTED)(images, rows)
    part = torch.tensor([31, 4])
    torch.testing.assert_close(DigitClass(WANTED)(images[part], part), whole[part])
    assert not torch.allclose(DigitClass(WANTED)(images[part], part.flip(0)), whole[part])


@pytest.mark.parametrize(
    ("labels", "message"), [([], "no classes"), ([3, 10], "row 1: the class 10"), ([-1], "row 0: the class -1")]
)
def test_wrong_classes_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        Digits.load("masked").prepare(labels)
    if labels:
        with pytest.raises(ValueError, match=message):
            DigitClass(labels)


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json: say 'masked' or 'uniform'"):
        Digits.load(tmp_path)
    for file in (WEIGHTS / FOLDERS["masked"]).iterdir():
        shutil.copy(file, tmp_path)
    assert Digits.load(tmp_path).noise.mask == LEVELS
    (tmp_path / "config.json").write_text('{"format": "another"}')
    with pytest.raises(ValueError, match="no iterref-digits-1 folder"):
        Digits.load(tmp_path)
    with pytest.raises(ValueError, match="no discriminator"):
        Realism([1], "cubist")


def _streams(rows: int):
    from iterref.random import Rng

    return Rng.seeded(0, torch.arange(rows))
