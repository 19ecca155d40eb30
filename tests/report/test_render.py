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
    assert data["most"] is None and len(data["rounds"]) == len(result.trace.rounds)
    for k, step in enumerate(result.trace.rounds):
        for w in range(2):
            assert len(data["rounds"][k][w]) == len(step)
            for one, decision in zip(step, data["rounds"][k][w], strict=True):
                before = clean[max(k - 1, 0)][w]
                assert [merged(before, pairs) for _, _, pairs in decision] == one.tokens[:, w].tolist()
                assert [verdict for _, verdict, _ in decision] == one.verdicts[:, w].tolist()
                assert [reward for reward, _, _ in decision] == pytest.approx(one.rewards[:, w].tolist())
                seen += len(decision)
    assert seen > 30


def test_a_long_run_writes_out_the_tested_and_the_best(monkeypatch):
    tokens = torch.arange(12, dtype=torch.int32).view(4, 1, 3) % 5
    verdicts = torch.tensor([[0], [REFUSED], [0], [ACCEPTED]], dtype=torch.int8)
    one = Round(tokens, torch.tensor([[5.0], [1.0], [7.0], [-math.inf]]), verdicts)
    clean = torch.full((2, 1, 3), 9)
    every, most = kept.rounds([[one], [one]], clean)
    assert most is None and all(pairs is not None for step in every for _, _, pairs in step[0][0])
    written = {}
    for room in (24, 12, 6, 5):  # of 24 places in all
        monkeypatch.setattr(kept, "ROOM", room)
        some, most = kept.rounds([[one], [one]], clean)
        written[most] = [place for place, (_, _, pairs) in enumerate(some[1][0][0]) if pairs is not None]
        assert [reward for reward, _, _ in some[0][0][0]] == [5.0, 1.0, 7.0, "-inf"]
    assert written == {None: [0, 1, 2, 3], 2: [1, 3], 1: [1], 0: []}


def test_a_step_without_candidates_and_a_run_of_one_step():
    data = kept.trace_data(run("ancestral:steps=1", watch=(1, 2)).trace, MASK, Rendering())
    assert data["rounds"] == [[[], []]] and data["states"]["then"] == [] and len(data["states"]["first"]) == 2
    assert 'class="moves"' not in page(run("ancestral:steps=2", watch=(0,)))


def test_a_trace_without_reward_calls_has_no_chart_against_them():
    result = run(BLOCKS, decode=words)
    assert "reward calls a sample</text>" in page(result)
    for step in result.trace.steps:
        step["reward_calls"] = torch.tensor(math.nan)
    assert "reward calls a sample</text>" not in page(result) and "NFE a sample</text>" in page(result)


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
    whole_size = sum(map(len, data["images"]))
    monkeypatch.setattr(kept, "DRAWN", whole_size - 1)
    monkeypatch.setattr(kept, "SIDES", (5, 2))
    assert {pixels_of(image).shape[1] for image in data_of(page(result))["images"]} == {2}


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match=r"render drew \(4, 5\) of 4 canvases: return \(canvases, 1 or 3, height"):
        table(run(BLOCKS), SimpleNamespace(render=lambda tokens: tokens / 4))


def test_pictures_are_whole_in_their_address():
    picture = torch.randint(0, 256, (6, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert (pixels_of(png(picture)) == picture.numpy()).all()
    assert (pixels_of(png(picture, 10))[::3, ::3] == picture.numpy()).all()
    assert smaller(picture, 3).shape == (3, 2, 3) and torch.equal(smaller(picture, 6), picture)
