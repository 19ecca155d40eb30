"""Rewards of images: equal to the networks asked by hand, and to `transformers`' own preparation of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from iterref import Problem, sample
from iterref.rewards import ImageClassifier, ImageText, RewardError, checked
from iterref.rewards.image import Preprocessing
from iterref.samplers.strings import sampler_from_string
from tests.support import checkpoints
from tests.support.worlds import random_table

TEXTS = ["a good day", "sun", "police arrested a man"]
TOKENS = torch.randint(0, 4, (7, 16), generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([0, 1, 2, 0, 1, 2, 2])


def render(tokens: Tensor) -> Tensor:
    """Canvases of 16 tokens as images of 24 x 16 pixels, a colour a token."""
    colours = torch.tensor([[0.1, 0.9, 0.2], [1.0, 0.0, 0.0], [0.3, 0.3, 0.8], [0.0, 0.0, 0.0]])
    return colours[tokens].view(-1, 4, 4, 3).permute(0, 3, 1, 2).repeat_interleave(6, 2).repeat_interleave(4, 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("images")
    return {"clip": checkpoints.clip(root / "clip"), "vision": checkpoints.vision(root / "vision")}


def test_a_class_is_the_network_asked_by_hand(folders: dict[str, Path]) -> None:
    from transformers import ViTForImageClassification

    network = ViTForImageClassification.from_pretrained(folders["vision"]).eval()
    pixels = Preprocessing.read(folders["vision"])(render(TOKENS))
    with torch.no_grad():
        log_p = network(pixel_values=pixels).logits.double().log_softmax(1)
    reward = ImageClassifier(render, folders["vision"], "dog")
    torch.testing.assert_close(checked(reward, TOKENS, ROWS), log_p[:, 1], atol=1e-5, rtol=0)
    each = ImageClassifier(render, folders["vision"], ["sun", "cat", 1], value="probability", batch=2)
    expected = log_p.exp().gather(1, torch.tensor([2, 0, 1])[ROWS, None])[:, 0]
    torch.testing.assert_close(checked(each, TOKENS, ROWS), expected, atol=1e-5, rtol=0)
    alone = torch.cat([each(TOKENS[i : i + 1], ROWS[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)
    assert each(TOKENS[:0], ROWS[:0]).shape == (0,)


def test_closeness_to_a_text_is_clips_own(folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer, CLIPModel

    network, tokenizer = (
        CLIPModel.from_pretrained(folders["clip"]).eval(),
        AutoTokenizer.from_pretrained(folders["clip"]),
    )
    pixels = Preprocessing.read(folders["clip"])(render(TOKENS))
    scores = []
    for row, image in zip(ROWS.tolist(), pixels, strict=True):
        with torch.no_grad():
            words = torch.tensor([tokenizer(TEXTS[row])["input_ids"]])
            answer = network(input_ids=words, pixel_values=image[None])
        scores.append(float(answer.logits_per_image[0, 0] / network.logit_scale.detach().exp()))
    reward = ImageText(render, folders["clip"], TEXTS)
    assert checked(reward, TOKENS, ROWS).tolist() == pytest.approx(scores, abs=1e-5)
    one = ImageText(render, folders["clip"], TEXTS[1], batch=3)(TOKENS, ROWS)
    assert one[[1, 4]].tolist() == pytest.approx([scores[1], scores[4]], abs=1e-5)
    assert len({round(score, 3) for score in scores}) > 4, "images and texts must differ for this to say anything"


@pytest.mark.parametrize("name", ["clip", "vision"])
def test_images_are_prepared_as_transformers_does(folders: dict[str, Path], name: str) -> None:
    image_processing = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    options = json.loads((folders[name] / "preprocessor_config.json").read_text())
    options.pop("image_processor_type")
    theirs = image_processing.CLIPImageProcessorPil(**options)
    generator = torch.Generator().manual_seed(1)
    images = (torch.rand(2, 3, 31, 20, generator=generator) * 255).round() / 255
    bytes_ = [(image * 255).round().byte().permute(1, 2, 0).numpy() for image in images]
    expected = torch.stack([torch.as_tensor(one) for one in theirs(bytes_)["pixel_values"]])
    ours = Preprocessing.read(folders[name])(images)
    # theirs rounds to whole levels after each pass of the filter: a few levels of 255, divided by sd = 0.2
    torch.testing.assert_close(ours, expected.float(), atol=3 / 255 / 0.2, rtol=0)
    assert float((ours - expected).abs().mean()) < 0.5 / 255 / 0.2


def test_nothing_is_done_that_is_not_asked_for(tmp_path: Path) -> None:
    off = {"do_resize": False, "do_center_crop": False, "do_normalize": False, "size": 4, "crop_size": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(off))
    images = torch.rand(2, 3, 5, 7)
    assert torch.equal(Preprocessing.read(tmp_path)(images), images)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(off | {"do_center_crop": True, "crop_size": 6}))
    with pytest.raises(ValueError, match=r"an image of \(5, 7\) is smaller than the crop \(6, 6\)"):
        Preprocessing.read(tmp_path)(images)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": 1}))
    with pytest.raises(ValueError, match="asks for the filter 1"):
        Preprocessing.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="no preprocessor_config.json"):
        Preprocessing.read(tmp_path / "none")


@pytest.mark.parametrize(
    "asked",  # as processors of ConvNeXt, MobileViT, EfficientNet, LeViT, ViViT, DETR and GLPN have it
    [
        {"crop_pct": 0.875}, {"do_flip_channel_order": True}, {"include_top": True}, {"do_rescale": False},
        {"image_processor_type": "LevitImageProcessorFast"}, {"rescale_factor": 1 / 127.5}, {"do_pad": True},
        {"size": {"shortest_edge": 4, "longest_edge": 9}}, {"size_divisor": 32},
    ],
)  # fmt: skip
def test_what_would_be_passed_over_is_refused(tmp_path: Path, asked: dict[str, Any]) -> None:
    rest = {"do_resize": True, "size": {"height": 4, "width": 4}, "do_pad": None, "do_convert_rgb": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(rest | {"rescale_factor": 1 / 255}))
    assert Preprocessing.read(tmp_path)(torch.ones(1, 3, 8, 8)).eq(1).all()  # no mean is named: nothing is normalised
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(rest | asked))
    with pytest.raises(ValueError, match=f"prepares images by .*{list(asked)[0].removeprefix('image_processor_type')}"):
        Preprocessing.read(tmp_path)


def test_mistakes_are_named(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="no label 'tree': choose one of 'cat', 'dog', 'sun'"):
        ImageClassifier(render, folders["vision"], ["dog", "tree"])
    with pytest.raises(ValueError, match="text 1 has 22 tokens and the model reads 12"):
        ImageText(render, folders["clip"], ["sun", "sun " * 20])
    with pytest.raises(ValueError, match="architecture 'vit', so it is no CLIP model"):
        ImageText(render, folders["vision"], "sun")
    reward = ImageClassifier(render, folders["vision"], ["dog", "cat"])
    with pytest.raises(RewardError, match="row 2 has no label, there are 2"):
        checked(reward, TOKENS, ROWS)
    for wrong, message in (
        (lambda tokens: render(tokens) * 2, "image 0 of a render leaves"),
        (lambda tokens: render(tokens)[:, 0], "for 7 canvases: return floats"),
        (lambda tokens: (render(tokens) * 255).byte(), "render gave torch.uint8"),
    ):
        with pytest.raises(RewardError, match=message):
            reward.render = wrong
            checked(reward, TOKENS, ROWS)


def test_they_steer_a_run(folders: dict[str, Path]) -> None:
    table = random_table("absorbing", 4, 3, 0, 1.0)

    def small(tokens: Tensor) -> Tensor:
        return render(tokens.repeat_interleave(4, 1))

    dog, near = ImageClassifier(small, folders["vision"], "dog"), ImageText(small, folders["clip"], TEXTS[:2])
    problem = Problem(table, (0.5 * dog + near).where(dog > -100), torch.zeros(2, 4, dtype=torch.long), alpha=0.1)
    result = sample(sampler_from_string("iterref:steps=2,tries=2"), problem, seed=0)
    expected = 0.5 * dog(result.tokens, torch.arange(2)) + near(result.tokens, torch.arange(2))
    torch.testing.assert_close(result.rewards, expected, atol=1e-5, rtol=0)
