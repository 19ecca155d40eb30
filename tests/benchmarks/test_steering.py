"""Steering: measures against plain countings, judges, rows that stand for themselves, and what steering is worth."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from safetensors import safe_open

from benchmarks.diversity import distinct, overlap, words
from benchmarks.tasks import steering
from benchmarks.tasks.steering import (
    AIMS,
    BAND,
    CASES,
    LABELS,
    MODELS,
    OPENINGS,
    Steering,
    classifier,
    closed,
    own_likelihood,
    read,
    task,
)
from iterref.budget import Budget
from iterref.loading import load
from iterref.models.mdlm import MaskedDit
from iterref.models.udlm import UniformDit
from iterref.registry import bundled
from iterref.rewards import Classifier, Perplexity
from iterref.samplers.strings import sampler_from_string
from tests.support.published import END, flat_config, tokenizer, weights, write

DOUBLED = pytest.param("acceptability", marks=pytest.mark.slow)  # steered as by sentiment, with other networks
OWN = (("the cat", ("dog", "home")), ("a man saw", ("cat", "ran")), ("the dog", ("home", "man")))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of ten words that nobody trained, masked and uniform."""
    found = {}
    for kind, more in (("mdlm", 1), ("udlm", 0)):
        found[kind] = tmp_path_factory.mktemp(kind)
        size = tokenizer(found[kind], [END]) + more
        write(found[kind], flat_config(kind, size), weights(size))
    return found


def small(folder: Path, **options: object) -> Steering:
    return replace(task(model=folder, steps=4, length=12), openings=OWN, **options)


# --- diversity --------------------------------------------------------------------------------------------------------


def test_distinct_counts_different_grams() -> None:
    texts = [words("The cat saw the cat."), words("the cat")]
    assert texts == [["the", "cat", "saw", "the", "cat"], ["the", "cat"]]
    assert distinct(texts, 1) == 3 / 7 and distinct(texts, 2) == 3 / 5 and distinct(texts, 5) == 1
    assert np.isnan(distinct(texts, 6)) and np.isnan(distinct([], 1))
    assert words("It's 12 o'clock -- don't!") == ["it's", "12", "o'clock", "don't"]
    with pytest.raises(ValueError, match="n-gram has at least one word, got n=0"):
        distinct(texts, 0)


def test_overlap_is_the_mean_rouge_of_pairs_of_a_group() -> None:
    generator = random.Random(0)
    texts = [generator.choices("a b c d e f".split(), k=generator.randint(1, 9)) for _ in range(9)]
    groups = [0, 1, 2] * 3
    scorer, means = RougeScorer(["rougeL"]), []
    for group in range(3):
        one = [" ".join(text) for text, of in zip(texts, groups, strict=True) if of == group]
        pairs = [(one[i], one[j]) for i in range(3) for j in range(i)]
        means.append(np.mean([scorer.score(*pair)["rougeL"].fmeasure for pair in pairs]))
    assert overlap(texts, groups) == pytest.approx(np.mean(means))
    assert overlap(texts, [0] * 9) != pytest.approx(np.mean(means))  # the control: groups matter
    assert overlap([["a"]] * 3, [0, 0, 0]) == 1 and overlap([["a"], ["b"]], [0, 0]) == 0
    assert np.isnan(overlap(texts, range(9))) and overlap([[], []], [0, 0]) == 1
    with pytest.raises(ValueError, match="one group a text"):
        overlap(texts, [0])


# --- the task ---------------------------------------------------------------------------------------------------------


def test_what_is_reported_is_what_is_announced(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        made = small(folder)
        rows = torch.arange(6)
        for case in made.cases:
            result = made.sample(case, "ancestral:steps=2", None, rows, 0)
            each, whole = made.judge(case, result, rows), made.whole(case, result, rows)
            assert {*each, *whole} == set(made.measures) and not set(each) & set(whole)
            assert all(found.shape == (6,) and np.isfinite(found).all() for found in each.values())
            assert list(made.measures)[0] == "reward" and made.main in each
            np.testing.assert_array_equal(each["reward"], result.rewards.numpy())


def test_methods_are_methods_and_the_plain_run_is_first() -> None:
    for made in (task(), task(quick=True)):
        for case in made.cases:
            first, *others = map(sampler_from_string, made.methods(case))
            assert first.name == "ancestral" and first.cost().nfe == made.plain(case)
            assert {method.name for method in others} >= {"best_of_n", "smc", "svdd", "iterref"}
            assert len(set(made.methods(case))) == len(others) + 1
    assert task().cases == CASES and task(quick=True).cases == ("sentiment", "keywords")
    assert len(OPENINGS) == 15 and all(len(set(each)) == 3 for each in OPENINGS.values())


@pytest.mark.parametrize("kind", ["mdlm", pytest.param("udlm", marks=pytest.mark.slow)])
@pytest.mark.parametrize("aim", ["sentiment", DOUBLED, *AIMS[2:]])
def test_rows_stand_for_themselves(folders: dict[str, Path], kind: str, aim: str) -> None:
    """A row's opening, keywords and text are the same whatever rows stand beside it; another seed is the control."""
    made, budget = small(folders[kind]), Budget(nfe=6)
    rows = torch.tensor([0, 1, 2, 7])
    every = made.sample(aim, "iterref:steps=2,tries=2,decisions=1", budget, rows, 3)
    judged = made.judge(aim, every, rows)
    for index in (torch.tensor([0, 2]), torch.tensor([3, 1])):
        part = made.sample(aim, "iterref:steps=2,tries=2,decisions=1", budget, rows[index], 3)
        assert torch.equal(part.tokens, every.tokens[index])
        for name, found in made.judge(aim, part, rows[index]).items():
            np.testing.assert_allclose(found, judged[name][index.numpy()], atol=1e-5)
    other = made.sample(aim, "iterref:steps=2,tries=2,decisions=1", budget, rows, 4)
    assert not torch.equal(other.tokens, every.tokens)
    assert every.texts is not None
    for row, text in zip(rows.tolist(), every.texts, strict=True):
        assert text.startswith(OWN[row % 3][0])


def test_keywords_and_lengths_are_judged_by_the_words_alone(folders: dict[str, Path]) -> None:
    made, rows = small(folders["mdlm"]), torch.arange(3)
    result = made.sample("keywords", "ancestral:steps=2", None, rows, 0)

    def judged(case: str, *texts: str) -> list[float]:
        return made.judge(case, replace(result, texts=list(texts)), rows)["judge"].tolist()

    assert judged("keywords", "the Dog ran home.", "a cat ran", "dog homes man") == [1, 1, 0]
    low, high = BAND
    within, long = " ".join(["cat"] * low), " ".join(["cat"] * (high + 1))
    assert judged("length", within + ".", within, long + ".") == [1, 0, 0]
    assert judged("length", f'" {"cat " * (low - 2)}! "', "cat.", f"{long[4:]}?") == [1, 0, 1]
    assert closed('he said: "no!"') and not closed("he said,") and not closed("")


def test_the_own_likelihood_is_that_of_one_token_given_the_others(folders, monkeypatch) -> None:
    monkeypatch.setattr(steering, "GROUPS", 12)
    generator = torch.Generator().manual_seed(0)
    for kind in ("mdlm", "udlm"):
        model = load(folders[kind], length=12)
        end = model.codec.end
        denoiser, canvas, free = model.prepare([opening for opening, _ in OWN])
        tokens = torch.where(free, torch.randint(0, 9, canvas.shape, generator=generator), canvas)
        tokens[0, 7], tokens[1, 9], tokens[1, 11] = end, end, end
        found = own_likelihood(model, tokens, [opening for opening, _ in OWN])
        for row in range(3):
            last = {0: 7, 1: 9, 2: 11}[row]
            text = tokens[row].clone()
            text[last + 1 :] = end
            cells = []
            for i in range(12):
                if not free[row, i] or i > last:
                    continue
                where = torch.zeros(1, 12, dtype=torch.bool)
                where[0, i] = True
                if kind == "mdlm":
                    share = torch.tensor([1 - 1 / int(free[row, : last + 1].sum())])
                    t = model.noise.schedule.time(share)
                    law = denoiser(text[None].masked_fill(where, model.noise.mask), t, where, torch.tensor([row]))
                else:
                    law = denoiser.leave_one_out(text[None], where, torch.tensor([row]))
                cells.append(float(law[0, text[i]]))
            assert found[row] == pytest.approx(np.mean(cells), abs=1e-5)
        changed = tokens.clone()
        changed[0, 9] = (changed[0, 9] + 1) % 9  # behind the end: another text
        assert own_likelihood(model, changed, [opening for opening, _ in OWN])[0] == pytest.approx(found[0], abs=1e-6)
        changed[0, 5] = (changed[0, 5] + 1) % 9  # the control: within the text
        assert own_likelihood(model, changed, [opening for opening, _ in OWN])[0] != pytest.approx(found[0], abs=1e-3)


def test_a_hacked_reward_shows(folders: dict[str, Path]) -> None:
    """Good words in a heap please the classifier; the other measures tell, and say nothing against plain prose."""
    made, rows = small(folders["mdlm"]), torch.arange(6)
    result = made.sample("sentiment", "ancestral:steps=2", None, rows, 0)
    heap = [f"{OWN[row % 3][0]} warm moving funny beautiful delight touching" for row in range(6)]
    prose = [
        "the cat ran home, and the old man was very glad to see it.",
        "a man saw a little boat on the river and called to his friend.",
        "the dog sat down before the fire and went to sleep at once.",
        "the cat had never seen so many birds in one tree before.",
        "a man saw that the door was open, and he walked in.",
        "the dog would not come, though the children called him by his name.",
    ]
    hacked, plain = (replace(result, texts=texts) for texts in (heap, prose))
    assert Perplexity("prose")(prose)[0] > Perplexity("prose")(heap)[0]
    one, other = (made.judge("sentiment", each, rows) for each in (hacked, plain))
    reward = made._reward("sentiment")
    assert reward(heap)[0] > reward(prose)[0]
    assert one["log_perplexity"].min() > other["log_perplexity"].max()
    one, other = (made.whole("sentiment", each, rows) for each in (hacked, plain))
    assert one["overlap"] > 0.9 > 0.4 > other["overlap"]
    assert all(one[f"distinct_{n}"] < 0.3 < other[f"distinct_{n}"] for n in (1, 2, 3))


@pytest.mark.parametrize("aim", ["sentiment", DOUBLED])
def test_a_classifier_rewards_and_its_judge_judges(folders: dict[str, Path], aim: str) -> None:
    """One mechanism for every property that has classifiers: what is steered by is not what is reported."""
    made, rows = small(folders["mdlm"]), torch.arange(3)
    result = made.sample(aim, "ancestral:steps=2", None, rows, 0)
    texts = ["the cat ran home and was glad.", "a man saw saw the of dog a.", "the dog is a dull and ugly beast."]
    plain, judge = (
        Classifier(classifier(name), LABELS[aim], value="probability")(texts) for name in (aim, f"{aim}-judge")
    )
    assert made._reward(aim)(texts) == pytest.approx(np.log(plain), abs=1e-5)
    judged = made.judge(aim, replace(result, texts=texts), rows)["judge"]
    np.testing.assert_allclose(judged, judge, atol=1e-6)
    assert np.abs(judged - np.array(plain)).max() > 0.05  # the control: two networks


def test_the_likeliest_text_is_not_the_shortest(folders: dict[str, Path]) -> None:
    made = small(folders["mdlm"])
    short = "the road to the"
    whole = (
        "the road bent sharply past mouldering chapels, where tattered pilgrims haggled over candles and trinkets "
        "until dusk crept in."
    )
    reward, bare = made._reward("perplexity"), Perplexity("prose")
    assert bare([short])[0] > bare([whole])[0] and reward([short])[0] < reward([whole])[0]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_bad_input_is_one_sentence(tmp_path: Path, folders: dict[str, Path]) -> None:
    made = small(folders["mdlm"])
    with pytest.raises(ValueError, match="steering has no case 'fame': choose one of sentiment, acceptability"):
        made.sample("fame", "ancestral", None, torch.arange(2), 0)
    with pytest.raises(ValueError, match="no case 'sentiment-uniform'"):  # of a model of one's own
        made.judge("sentiment-uniform", made.sample("length", "ancestral", None, torch.arange(2), 0), torch.arange(2))
    for wrong in ({"steps": 1}, {"alpha": 0.0}, {"alpha": float("nan")}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match="at least 2 steps, a positive alpha and a positive temperature"):
            task(**wrong)
    with pytest.raises(FileNotFoundError, match="no folder .* give one that save_pretrained wrote"):
        task(model=tmp_path / "nowhere").sample("length", "ancestral", None, torch.arange(2), 0)
    with pytest.raises(ValueError, match="prompt 1 takes .* shorten it"):
        long = (*OWN[:1], ("the cat dog saw " * 3, ("a",)))
        replace(made, openings=long).sample("length", "ancestral", None, torch.arange(2), 0)
    with pytest.raises(FileNotFoundError, match="there is no file .*: give a text file with an opening a line"):
        task(data=tmp_path / "openings.txt")
    file = tmp_path / "openings.txt"
    for content, sentence in ((b"\n \n", "holds no openings: write one a line"), (b"\xff\xfe", "is no text in UTF-8")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=sentence):
            read(file)


def test_openings_of_one_s_own(tmp_path: Path, folders: dict[str, Path]) -> None:
    file = tmp_path / "openings.txt"
    file.write_text("the  man\n\na dog ran\n", encoding="utf-8")
    made = task(model=folders["udlm"], data=file, length=12, steps=2)
    assert made.cases == AIMS and [opening for opening, _ in made.openings] == ["the man", "a dog ran"]
    texts = made.sample("length", "ancestral:steps=2", None, torch.arange(4), 0).texts or []
    assert [text.startswith(("the man", "a dog ran")[row % 2]) for row, text in enumerate(texts)] == [True] * 4


# --- the bundled models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "denoiser"), [("tiny-books", MaskedDit), ("tiny-books-uniform", UniformDit)])
def test_the_models_of_whole_texts_are_read(name, denoiser, tmp_path, monkeypatch, folders) -> None:
    place = bundled("models").get(name, Path(MODELS["-uniform"]))
    model = load(place)
    assert isinstance(model.denoiser, denoiser) and model.length == 48
    files = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert {file.name for file in place.iterdir()} == files
    assert sum(file.stat().st_size for file in place.iterdir()) < 10e6
    with safe_open(place / "model.safetensors", "pt") as file:
        assert all(file.get_slice(key).get_dtype() == "F16" for key in file.keys())
    assert load(place, length=20).prepare([""])[1].shape == (1, 20)
    text = "the captain's boat, he said, was lost!"
    assert model.decode(model.encode([text.upper()])) == [text]
    (tmp_path / name).symlink_to(folders["mdlm"])  # a folder of the name goes first
    monkeypatch.chdir(tmp_path)
    assert load(name).length == 10


def test_steering_moves_a_judge_that_was_not_asked() -> None:
    """Towards sentiment it does, by a fifth; towards keywords (the control) it leaves that judge where it was."""
    made, rows = task(quick=True), torch.arange(20)
    found, rewards = {}, {}
    for aim, method in (("sentiment", "ancestral:steps=6"), ("sentiment", "iterref"), ("keywords", "iterref")):
        result = made.sample(aim, method, Budget(nfe=6), rows, 0)
        found[aim, method] = made.judge("sentiment", result, rows)["judge"].mean()
        rewards[aim, method] = result.rewards.mean()
    plain = found["sentiment", "ancestral:steps=6"]
    assert found["sentiment", "iterref"] > plain + 0.2 > found["keywords", "iterref"] + 0.1
    assert rewards["sentiment", "iterref"] > rewards["sentiment", "ancestral:steps=6"] + 0.5
