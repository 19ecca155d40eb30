"""How a page shows tokens, as words and as pictures, and that what it writes of the proposals is the trace's."""

from __future__ import annotations

import base64
import io
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from benchmarks.models.digits import Digits
from iterref.decision import ACCEPTED, REFUSED
from iterref.report import Rendering, choose_rendering, page, table
from iterref.report import trace_view as kept
from iterref.report.render import Spelled, png, smaller
from iterref.trace import Round
from tests.support.bundled import tiny_news
from tests.support.pages import MASK, data_of, merged, run, whole, words

BLOCKS = "iterref:steps=3,moves=4,tries=3,early=0.5,decisions=2"


def pixels_of(address: str) -> np.ndarray:
    head, _, data = address.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def grey(tokens: Tensor) -> Tensor:
    """Canvases of 5 tokens as one line of pixels."""
    return (tokens / 4).view(-1, 1, 1, 5)


# words


def test_a_model_is_shown_by_its_tokenizer():
    model = tiny_news()
    name = choose_rendering(model).name
    assert name is not None and choose_rendering(model.tokenizer).name is not None
    ids = model.encode(["the harrowgate museum will close , police said ."])[0].tolist()
    ids = ids[: ids.index(model.eos) + 1]
    assert "".join(map(name, ids)) == " the harrowgate museum will close , police said . <eos>"
    assert name(ids[0]) == " the"


def test_special_tokens_and_pieces_are_named():
    pieces = Tokenizer(models.WordPiece({"a": 0, "the": 1, "##n": 2, "[SEP]": 3, ".": 4, "?": 5}, unk_token="?"))
    pieces.decoder, pieces.pre_tokenizer = decoders.WordPiece(), pre_tokenizers.Whitespace()
    pieces.add_special_tokens(["[SEP]"])
    assert [Spelled(pieces)(token) for token in (1, 2, 3, 9)] == [" the", "n", " [SEP]", "9"]
    text = BytePieces.tokenizer
    name = Spelled(text)
    assert name(text.token_to_id("\u0120the")) == " the"
    assert name(text.token_to_id("\u00e2")) == "\u00e2"  # half a character goes by its token's name


class BytePieces:
    """A tokenizer of bytes, in which a letter may take several tokens."""

    tokenizer = Tokenizer(models.BPE({"a": 0, "\u0120the": 1, "\u00e2": 2}, []))
    tokenizer.decoder = decoders.ByteLevel()


def test_whatever_says_how_tokens_are_shown_is_understood():
    model, function = Digits.load("masked"), "abc".__getitem__
    assert choose_rendering(None) == Rendering()
    assert choose_rendering(Rendering(function)) == Rendering(function) == choose_rendering(function)
    assert choose_rendering(model).render == model.render and choose_rendering(model).name is None
    holder, wrapped = SimpleNamespace(codec=BytePieces), SimpleNamespace(backend_tokenizer=BytePieces.tokenizer)
    assert {choose_rendering(one).name(1) for one in (BytePieces(), holder, wrapped)} == {" the"}
    with pytest.raises(TypeError, match="show is a int: give a model, a tokenizer, or a function"):
        choose_rendering(3)
    with pytest.raises(TypeError, match="show is a list"):
        page(run("ancestral:steps=1", show=["a", "b"]))


def test_a_result_knows_how_it_is_shown():
    result = run(BLOCKS, watch=(1,), show="abc".__getitem__)
    assert data_of(page(result))["names"] == {"0": "a", "1": "b", "2": "c"}
    assert data_of(page(result, "xyz".__getitem__))["names"] == {"0": "x", "1": "y", "2": "z"}
    assert "".join("abc"[token] for token in result.tokens[0].tolist()) in result._repr_html_()
    assert data_of(page(run(BLOCKS, watch=(1,))))["names"] is None
    model = SimpleNamespace(prepare=None)  # one that does not say
    assert data_of(page(run(BLOCKS, watch=(1,), show=model)))["names"] is None


def test_a_result_that_knows_how_it_is_shown_can_be_pickled():
    again = pickle.loads(pickle.dumps(run(BLOCKS, watch=(1,), show=BytePieces())))
    assert choose_rendering(again.show).name(1) == " the" and len(again.trace.rounds) == len(again.trace.steps)


# proposals


def test_the_proposals_are_the_trace_s():
    """Put back on the clean sample before, what the page writes of a candidate is the candidate."""
    result = run(BLOCKS, watch=(2, 0), decode=words)
    data = data_of(page(result, "abc".__getitem__))
    clean, seen = whole(data["clean"]), 0
    assert len(data["rounds"]) == len(result.trace.rounds)
    for k, step in enumerate(result.trace.rounds):
        for w in range(2):
            assert len(data["rounds"][k][w]) == len(step)
            for one, (left, against, decision) in zip(step, data["rounds"][k][w], strict=True):
                before = clean[max(k - 1, 0)][w]
                assert left == 0 and [merged(before, pairs) for *_, pairs in decision] == one.tokens[:, w].tolist()
                assert [verdict for _, verdict, _, _ in decision] == one.verdicts[:, w].tolist()
                assert [reward for reward, *_ in decision] == pytest.approx(one.rewards[:, w].tolist())
                chances = [math.nan if chance is None else chance for _, _, chance, _ in decision]
                assert chances == pytest.approx(one.chances[:, w].tolist(), nan_ok=True)
                assert all((verdict > 0 and k > 0) == (chance is not None) for _, verdict, chance, _ in decision)
                start = [math.nan if against is None else against]
                assert start == pytest.approx(one.before[:1, w].tolist(), nan_ok=True)
                assert (against is None) == (k == 0)
                seen += len(decision)
    assert seen > 30


def test_a_long_run_shows_the_tested_and_the_best():
    tokens = torch.arange(12, dtype=torch.int32).view(4, 1, 3) % 5
    verdicts = torch.tensor([[0], [REFUSED], [0], [ACCEPTED]], dtype=torch.int8)
    one = Round(tokens, torch.tensor([[5.0], [1.0], [7.0], [-math.inf]]), verdicts, *torch.full((2, 4, 1), math.nan))
    clean = torch.full((2, 1, 3), 9)
    shown = {}
    for room in (48, 24, 12, 6):  # of 48 places in all: three that differ and three beside them each
        [[(left, _, listed)]] = kept.rounds([[one], [one]], clean, room)[1]
        shown[left] = [reward for reward, *_ in listed]
    assert shown == {0: [5.0, 1.0, 7.0, "-inf"], 2: [1.0, "-inf"], 3: [1.0], 4: []}


def test_a_page_of_a_run_of_any_length_stays_within_its_bounds():
    """Every second, fourth, ... step where all of them have no room, and the last; as many rows as have any."""
    result = run("iterref:steps=2,moves=40,tries=3,decisions=2", watch=(2, 0, 1), decode=words)
    count = len(result.trace.steps)
    for bounds in (kept.Bounds(steps=10), kept.Bounds(places=200)):
        data = kept.trace_data(result.trace, MASK, Rendering(name="abc".__getitem__), bounds)
        gaps = {b - a for a, b in zip(data["step"][:-1], data["step"][1:-1], strict=False)}
        assert data["step"][0] == 1 and data["step"][-1] == data["all"] == count and len(data["step"]) < 12
        assert len(gaps) == 1 and gaps.pop() > 1 and len(data["rounds"]) == len(data["reward"]) == len(data["step"])
        table = result.trace.table()
        places = [k - 1 for k in data["step"]]
        assert whole(data["states"]) == table["watched"][places].tolist()
        before = table["reward"][[k - 1 for k in places[1:]]][:, [2, 0, 1]].tolist()
        assert data["before"]["reward"][1:] == before
    assert kept.trace_data(result.trace, MASK, Rendering(), kept.Bounds(places=20))["watch"] == [2, 0]
    assert kept.trace_data(result.trace, MASK, Rendering(), kept.Bounds(places=1))["watch"] == [2]
    assert kept.Bounds().share(8) == kept.Bounds(125, 37_500, 312_500, 125, 62_500)


def test_a_step_without_candidates_and_a_run_of_one_step():
    data = kept.trace_data(run("ancestral:steps=1", watch=(1, 2)).trace, MASK, Rendering())
    assert data["rounds"] == [[[], []]] and data["states"]["then"] == [] and len(data["states"]["first"]) == 2
    assert 'class="moves"' not in page(run("ancestral:steps=2", watch=(0,)))


def test_a_trace_without_reward_calls_has_no_chart_against_them():
    result = run(BLOCKS, decode=words)
    assert "reward calls a text</text>" in page(result)
    for step in result.trace.steps:
        step["reward_calls"] = torch.tensor(math.nan)
    assert "reward calls a text</text>" not in page(result) and "NFE a text</text>" in page(result)


# pictures


def test_digits_are_drawn():
    drawn = Digits.load("masked").render(torch.arange(64).view(1, 64) % 18)
    assert drawn.shape == (1, 1, 8, 8)
    levels = drawn[0, 0].flatten()
    assert levels[0] == 1 and levels[16] == 0 and levels[17] == 0.5 and levels[18] == 1 and levels[8] == 0.5


def test_pictures_stand_in_the_table():
    result = run(BLOCKS, show=SimpleNamespace(render=grey))
    for text in (page(result), result._repr_html_()):
        addresses = [part.split('"')[0] for part in text.split(' src="')[1:]]
        assert len(addresses) == 4 and '<th scope="col">picture</th>' in text
        for address, row in zip(addresses, result.tokens, strict=True):
            picture = pixels_of(address)
            assert picture.shape == (64, 320, 3) and picture[0, ::64, 0].tolist() == (row / 4 * 255).round().tolist()
    assert "; img-src data:" in page(result) and ">Pictures<" in page(result) and "img-src" not in page(run(BLOCKS))
    assert table(result, "abc".__getitem__).count("<img") == 0


def test_a_pixel_a_token_needs_no_pictures():
    result = run(BLOCKS, watch=(1,), show=SimpleNamespace(render=grey))
    picture = data_of(page(result))["picture"]
    colours = {"0": "#000000", "1": "#404040", "2": "#808080", str(MASK): "#bfbfbf"}
    assert picture == {"width": 5, "height": 1, "colours": colours}
    colour = choose_rendering(SimpleNamespace(render=lambda x: torch.stack([x / 4, 0 * x, 1 - x / 4], 1)[:, :, None]))
    assert data_of(page(result, colour))["picture"]["colours"]["1"] == "#4000bf"


def test_a_pixel_that_depends_on_its_neighbours_needs_pictures(monkeypatch):
    result = run(BLOCKS, watch=(2, 0), show=SimpleNamespace(render=lambda x: grey((x + x.roll(1, 1)) / 2)))
    data, steps = data_of(page(result)), result.trace.table()
    assert data["picture"] is None and data["names"] is None and 'class="legend' not in page(result)
    for name, series in (("states", "watched"), ("clean", "clean")):
        for k, w in ((0, 0), (3, 1), (5, 0)):
            row = steps[series][k, w]
            expected = ((row + row.roll(1)) / 8 * 255).round().tolist()
            assert pixels_of(data["images"][data["drawn"][name][k][w]])[0, :, 0].tolist() == expected
    assert len(data["images"]) == len(set(data["images"]))
    assert pictures_of(kept.Bounds(), result) == {5}
    room = sum(map(len, data["images"])) - 1
    monkeypatch.setattr(kept, "SIDES", (5, 2))
    assert pictures_of(kept.Bounds(drawn=room), result) == {2}


def pictures_of(bounds: kept.Bounds, result: object) -> set[int]:
    """How wide the pictures of the steps are."""
    data = kept.trace_data(result.trace, MASK, choose_rendering(result.show), bounds)
    return {pixels_of(image).shape[1] for image in data["images"]}


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match=r"render drew \(4, 5\) of 4 canvases: return \(canvases, 1 or 3, height"):
        table(run(BLOCKS), SimpleNamespace(render=lambda tokens: tokens / 4))


def test_pictures_are_whole_in_their_address():
    picture = torch.randint(0, 256, (6, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert (pixels_of(png(picture)) == picture.numpy()).all()
    assert (pixels_of(png(picture, 10))[::3, ::3] == picture.numpy()).all()
    assert smaller(picture, 3).shape == (3, 2, 3) and torch.equal(smaller(picture, 6), picture)
