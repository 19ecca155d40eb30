"""The task of images: measures with their floors and controls, splits of rows, and pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits

from benchmarks.frechet import frechet, mixed, moments
from benchmarks.gallery import gallery, page
from benchmarks.models import train_digits
from benchmarks.models.digits import CLASSES, FOLDERS, LENGTH, LEVELS, WEIGHTS
from benchmarks.tasks.images import CASES, Images, task
from iterref.budget import Budget, fit_budget
from iterref.samplers.strings import sampler_from_string

ROWS = torch.arange(20)


@pytest.fixture(scope="module")
def quick() -> Images:
    return task(quick=True)


def random_features(seed: int, rows: int = 200, width: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, width)) @ random.normal(size=(width, width)) + random.normal(size=width)


def test_the_distance_is_the_textbook_s():
    one, other = moments(random_features(0)), moments(random_features(1))
    cross = sqrtm(one.covariance @ other.covariance).real
    want = ((one.mean - other.mean) ** 2).sum() + np.trace(one.covariance + other.covariance - 2 * cross)
    assert frechet(one, other) == pytest.approx(want) == pytest.approx(frechet(other, one))
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert abs(want - ((one.mean - other.mean) ** 2).sum()) > 0.1  # control: means alone are another number


def test_moments_of_one_image_and_of_a_mixture():
    x = random_features(2)
    assert not moments(x[:1]).covariance.any()
    halves = x[:100], x[100:]
    means, seconds = (np.stack(one) for one in zip(*((h.mean(0), h.T @ h / len(h)) for h in halves), strict=True))
    both = mixed(np.array([0.5, 0.5]), means, seconds)
    assert np.allclose(both.mean, moments(x).mean) and np.allclose(both.covariance, moments(x).covariance)
    with pytest.raises(ValueError, match="at least one image"):
        moments(x[:0])


def test_real_images_are_near_the_reference_and_noise_is_far():
    """The floor: training images against held-out ones. Controls: noise, and real images under other classes."""
    data, split = load_digits(), train_digits.split
    x, y, parts = torch.from_numpy(data.data).long(), torch.from_numpy(data.target).long(), split(data.target)
    assert np.bincount(data.target[parts["held"]]).tolist() == [40] * CLASSES
    assert len(np.unique(np.concatenate(list(parts.values())))) == len(x)
    of = task()
    used = np.concatenate([parts["first"], parts["second"]])
    real = of.compared(x[used], y[used])
    noise = of.compared(torch.randint(LEVELS, (400, LENGTH), generator=torch.Generator().manual_seed(0)), y[:400])
    confused = of.compared(x[used], (y[used] + 1) % CLASSES)
    exact = of.compared(x[parts["held"]], y[parts["held"]])
    assert exact["frechet"] < 1e-3 < real["frechet"] < noise["frechet"] / 20
    assert real["frechet_class"] < confused["frechet_class"] / 20
    few = of.compared(x[used][:40], y[used][:40])
    assert np.isnan(few["frechet_class"]) and few["frechet"] > real["frechet"]


def test_the_reference_has_the_classes_of_the_rows():
    """Sixes alone are near sixes; control: as a set of all classes they would be far."""
    of = task(quick=True)
    result = of.sample("masked", "ancestral:steps=8", None, torch.full((40,), 6) + 10 * torch.arange(40), 0)
    sixes = of.compared(result.tokens, torch.full((40,), 6))["frechet"]
    assert sixes < of.compared(result.tokens, torch.arange(40) % CLASSES)["frechet"] / 3


@pytest.mark.parametrize("case", CASES)
def test_every_case_runs_and_measures_what_it_says(case):
    of = task(steps=4)
    result = of.sample(case, "iterref", Budget(nfe=4, reward_calls=32), ROWS[:4], 0)
    each, whole = of.judge(case, result, ROWS[:4]), of.whole(case, result, ROWS[:4])
    assert [*each, *whole] == list(of.measures) and of.main in of.measures
    assert all(values.shape == (4,) and np.isfinite(values).all() for values in each.values())
    assert np.array_equal(each["reward"], result.rewards.numpy())
    if case.endswith("realism"):
        np.testing.assert_allclose(each["reward"], each["realism"], atol=1e-5)
    methods, plain = of.methods(case), of.plain(case)
    assert plain == 4
    assert methods[0] == f"ancestral:steps={plain}" and {"iterref"} < set(methods)
    for method in methods:
        assert fit_budget(sampler_from_string(method), Budget(nfe=plain, reward_calls=16 * plain)).cost().nfe <= plain


@pytest.mark.parametrize("case", [pytest.param("masked", marks=pytest.mark.slow), "uniform"])
def test_any_split_of_rows_gives_the_same(quick, case):
    rows = ROWS[4:12]
    whole = quick.sample(case, "iterref", Budget(nfe=8, reward_calls=32), rows, 5)
    parts = [quick.sample(case, "iterref", Budget(nfe=8, reward_calls=32), part, 5) for part in (rows[:3], rows[3:])]
    assert torch.equal(whole.tokens, torch.cat([part.tokens for part in parts]))
    other = quick.sample(case, "iterref", Budget(nfe=8, reward_calls=32), rows, 6)
    assert not torch.equal(whole.tokens, other.tokens)


def test_steering_raises_the_reward_and_the_held_out_judge():
    """Without a class the model alone is right one time in ten; the reward alone knows the class."""
    of = task()
    rows = torch.arange(30)
    plain = of.judge("masked-free", before := of.sample("masked-free", "ancestral:steps=16", None, rows, 0), rows)
    after = of.sample("masked-free", "iterref", Budget(nfe=24, reward_calls=384), rows, 0)
    steered = of.judge("masked-free", after, rows)
    assert plain["accuracy"].mean() < 0.25 and steered["accuracy"].mean() > 0.5
    assert after.asked.nfe <= 24 and before.asked.nfe == 16


def test_pictures_are_written(quick, tmp_path):
    results = {name: quick.sample("masked", "ancestral:steps=2", None, ROWS, seed) for seed, name in enumerate("ab")}
    file = tmp_path / "new" / "grid.png"
    quick.gallery("masked", results, file)
    assert file.read_bytes()[:4] == b"\x89PNG"
    image = torch.arange(LENGTH) % LEVELS
    drawn = page(torch.stack([image, image.flip(0)]), 8, columns=1)
    assert np.array_equal(drawn[1:9, 1:9], image.view(8, 8).numpy()) and not drawn[9].any() and drawn.shape == (19, 10)
    with pytest.raises(ValueError, match="no images to draw"):
        gallery({}, tmp_path / "x.png", side=8, levels=LEVELS)
    with pytest.raises(ValueError, match=r"must be \(images, 64\), got \(2, 9\)"):
        page(torch.zeros(2, 9), 8)


def test_a_model_of_one_s_own_and_wrong_options(tmp_path):
    own = task(model=WEIGHTS / FOLDERS["uniform"])
    assert own.cases == tuple(case for case in CASES if case.startswith("uniform"))
    with pytest.raises(ValueError, match="no case 'masked': choose one of uniform"):
        own.sample("masked", "ancestral", None, ROWS, 0)
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        task(model=tmp_path)
    with pytest.raises(ValueError, match="leave the data out"):
        task(data="digits")
    with pytest.raises(ValueError, match="at least 4 steps and a positive alpha, got 1"):
        task(steps=1)
    with pytest.raises(ValueError, match="at least 4 steps and a positive alpha, got 16 and 0"):
        task(alpha=0)
