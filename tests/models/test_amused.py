"""aMUSEd pipelines: the published law and step, images and codes, prompts read once, guidance, bad input.

Compared with its pipeline (diffusers 0.42.1: AmusedPipeline, AmusedScheduler;
training was read in examples/amused/train_amused.py of huggingface/diffusers at 071190da) on the same random weights,
in float32 on a CPU, 1024 codes, L = 256 and 1024, unequal prompts, at every state of a run: log-probabilities down to
-20 differ by at most 2.9e-6 and probabilities by 6.7e-8; under guidance by 10, which multiplies rounding by 19, by
8.4e-5 and 1.4e-5. Images are the same to the bit.
"""

from __future__ import annotations

import itertools
import sys
from math import cos, pi
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from torch import Tensor

from iterref.check import check_model
from iterref.decoding import Decoder
from iterref.generation import generate
from iterref.guidance import ClassifierFreeGuidance
from iterref.models import amused
from iterref.models.amused import Grid, ImageModel
from iterref.problem import Problem
from iterref.rewards import ImageClassifier, ImageText
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support import checkpoints
from tests.support.oracle import enumerate_outcomes, law_matrix
from tests.support.paths import stepped
from tests.support.pipelines import CODES, TOKENS, change, made, pipeline
from tests.support.published import all_states

PROMPTS = ["a red bird on the sun", "", "cat"]
MASK = TOKENS - 1


@pytest.fixture(scope="module")
def folder() -> Path:
    return made()


@pytest.fixture(scope="module")
def model(folder: Path) -> ImageModel:
    """The model without guidance."""
    return amused.load(folder, guidance=None)


def guided(model: ImageModel, guidance: float | None, avoided: str = "") -> ImageModel:
    """The same parts with guidance."""
    return ImageModel(model.network, model.noise, model.reader, model.images, model.micro, guidance, avoided)


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return Path(copytree(folder, tmp_path / "own"))


def laws(model: ImageModel, x_t: Tensor, prompts: list[str]) -> Tensor:
    """Probabilities (R, L, V) of all positions."""
    denoiser, _, free = model.prepare(prompts)
    law = denoiser(x_t, torch.full((len(x_t),), 0.5), free, torch.arange(len(x_t)))
    return law.exp().view(*x_t.shape, -1)


def codes(rows: int, length: int, masked: float = 0.0) -> Tensor:
    """Random codes, a share of them masked."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(0, CODES, (rows, length), generator=generator)
    return x.masked_fill(torch.rand(x.shape, generator=generator) < masked, MASK)


def published(folder: Path, **options: Any) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    """The published pipeline's run: each step's codes and the probabilities that it draws from, the codes at the end
    (R, L), and the images (R, 3, H, W)."""
    import diffusers
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    network: dict[str, Any] = {"use_safetensors": True, "low_cpu_mem_usage": False}
    run = diffusers.AmusedPipeline(
        vqvae=diffusers.VQModel.from_pretrained(folder / "vqvae", **network),
        transformer=diffusers.UVit2DModel.from_pretrained(folder / "transformer", **network),
        text_encoder=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=diffusers.AmusedScheduler.from_pretrained(folder / "scheduler"),
    )
    run.set_progress_bar_config(disable=True)
    seen, last, step, draw = [], [], run.scheduler.step, torch.multinomial

    def watched(model_output: Tensor, timestep: int, sample: Tensor, **more: Any) -> Any:
        drawn: list[Tensor] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "multinomial", lambda p, n, **kw: drawn.append(p) or draw(p, n, **kw))
            answer = step(model_output=model_output, timestep=timestep, sample=sample, **more)
        seen.append((sample.flatten(1), drawn[0].view(len(sample), -1, drawn[0].shape[-1])))
        last[:] = [answer.prev_sample.flatten(1)]
        return answer

    run.scheduler.step = watched
    images = run(PROMPTS, generator=torch.Generator().manual_seed(0), output_type="np", **options).images
    masked = seen[-1][0] == MASK
    assert bool(masked.any()) and not bool(masked.all())
    return seen, last[0], torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("halved", "guidance"),
    [(False, None), (True, 10.0), *(pytest.param(*x, marks=pytest.mark.slow) for x in ((False, 10.0), (True, None)))],
)
def test_the_law_is_the_one_that_the_published_pipeline_draws_from(folder, halved, guidance):
    """At every state of a run, with its guidance of logits, its micro-conditions and another size than the model's."""
    folder = made(halved=True) if halved else folder
    steps, _, _ = published(
        folder, num_inference_steps=4, guidance_scale=guidance or 1.0, height=8, width=12,
        micro_conditioning_aesthetic_score=5, micro_conditioning_crop_coord=(2, 1),
    )  # fmt: skip
    model = amused.load(folder, guidance=guidance, height=8, width=12, aesthetic=5, crop=(2, 1))
    assert model.length == 24
    for x_t, p in steps:
        got, masked = laws(model, x_t, PROMPTS), x_t == MASK
        torch.testing.assert_close(got[..., :CODES][masked], p[masked], atol=2e-5, rtol=0)
        assert bool((got[..., CODES:] == 0).all())
        assert bool((got.gather(-1, x_t[..., None])[..., 0][~masked] == 1).all())
    x_t, p = steps[0]
    others = {"aesthetic": (12, 8, 2, 1, 9), "crop": (12, 8, 0, 0, 5), "size": (8, 12, 2, 1, 5)}
    for told in others.values():  # negative controls
        model.micro = torch.tensor(told, dtype=torch.float32)
        assert float((laws(model, x_t, PROMPTS)[..., :CODES] - p).abs().max()) > 1e-3
    assert amused.load(folder, original=(90, 10)).micro.tolist() == [90, 10, 0, 0, 6]


def test_images_are_the_published_pipeline_s(folder):
    _, drawn, images = published(folder, num_inference_steps=3)
    got = amused.load(folder).render(drawn)
    torch.testing.assert_close(got, images, atol=1e-5, rtol=0)
    assert float((got[0] - got[1]).abs().max()) > 0.1


@pytest.mark.parametrize(("hidden", "step"), [(4, 3), (3, 2), (2, 1)])
def test_one_step_is_the_published_scheduler_s(tmp_path, hidden, step):
    """Every outcome of a step at temperature 0 is that of order="confidence", where the number of masks is whole."""
    import diffusers

    folder = pipeline(tmp_path, codes=3, tokens=5, size=2)
    change(folder / "scheduler" / "scheduler_config.json", masking_schedule="linear")
    model = amused.load(folder, guidance=3.0)
    starts = torch.tensor([[4, 4, 4, 4], [1, 4, 4, 4], [4, 2, 4, 0]][4 - hidden]).view(1, 4)
    scheduler = diffusers.AmusedScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(4, temperature=(0, 0))
    p = laws(model, starts, ["red"])[..., :3].double()
    guesses = torch.tensor(list(itertools.product(range(3), repeat=4)))
    weights = p[0].gather(1, guesses.T).prod(0)
    logits = p.log().clamp_min(-40).permute(0, 2, 1).reshape(1, 3, 2, 2).expand(81, -1, -1, -1).float()
    with pytest.MonkeyPatch.context() as patch:  # whatever it draws
        patch.setattr(torch, "multinomial", lambda p, n, **kw: guesses.view(-1, 1))
        after = scheduler.step(logits, step, starts.view(1, 2, 2).expand(81, -1, -1)).prev_sample.flatten(1)
    revealed = (starts != 4).expand(81, -1)
    weights = weights / (torch.where(revealed, guesses, 0).eq(torch.where(revealed, starts, 0)).all(1) * weights).sum()
    weights = weights * guesses.eq(torch.where(revealed, starts, guesses)).all(1)
    states = all_states(5, 4)
    want = law_matrix(torch.zeros(81, dtype=torch.long), weights, after, states)
    denoiser, t = model.prepare(["red"])[0], (step + 1) / 4

    def ours(order: str) -> Tensor:
        def outcome(start: Tensor, rng: Any) -> Tensor:
            return stepped(denoiser, starts[start], t, t - 0.25, Decoder(order), rng)

        return law_matrix(*enumerate_outcomes(outcome, 1), states)

    torch.testing.assert_close(ours("confidence"), want, atol=1e-5, rtol=0)
    assert float((ours("random") - want).abs().max()) > 0.01  # negative control


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_the_schedule_is_the_scheduler_s(own, name):
    """The share that is masked after i of n steps, and what training draws it from."""
    change(own / "scheduler" / "scheduler_config.json", masking_schedule=name)
    noise, n = amused.load(own).noise, 12
    assert noise.mask == MASK and noise.vocab == TOKENS
    for i in range(n + 1):
        left = cos(i / n * pi / 2) if name == "cosine" else 1 - i / n
        assert 1 - float(noise.a(1 - i / n)) == pytest.approx(left, abs=1e-12)


def test_texts_are_read_as_the_network_was_trained_on(model):
    """The states that go into the last layer, padding included."""
    encoder, entered = model.reader.encoder, []
    layer = encoder.text_model.encoder.layers[-1]
    hook = layer.register_forward_pre_hook(lambda one, given: entered.append(given[0]))
    read = model.reader(PROMPTS)
    hook.remove()
    torch.testing.assert_close(read.states, entered[0])
    assert read.states.shape == (3, 12, 16) and read.which.tolist() == [0, 1, 2]
    short, end = model.reader(["cat"]), model.reader.tokenizer.eos_token_id
    ids = model.reader.tokenizer(["cat"], padding="max_length", max_length=12)["input_ids"][0]
    assert ids[2:] == [end] * 10  # the text's end and its padding, which is read too
    torch.testing.assert_close(short.states[0], read.states[2], atol=1e-6, rtol=0)
    torch.testing.assert_close(short.pooled[0], read.pooled[2], atol=1e-6, rtol=0)


def test_a_prompt_is_read_once_for_all_its_candidates(model):
    seen: list[int] = []
    hook = model.reader.encoder.register_forward_pre_hook(
        lambda one, args, named: seen.append(len(named["input_ids"])), with_kwargs=True
    )
    generate(guided(model, 2.0), [*PROMPTS, "cat"], reward=lambda completions: [0.0] * len(completions),
             sampler="best_of_n:n=3,steps=2", max_rows=5)  # fmt: skip
    hook.remove()
    assert seen == [3, 1]  # three different prompts, and the empty one of guidance


def test_unequal_prompts_in_a_batch_are_as_alone(model):
    x_t = codes(3, 16, masked=0.6)
    together = laws(model, x_t, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = laws(model, x_t[row : row + 1], [prompt])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)
    assert float((together[0] - laws(model, x_t[:1], ["cat"])[0]).abs().max()) > 1e-2  # negative control


def test_the_head_runs_on_the_open_positions_alone(model):
    x_t = codes(3, 16, masked=0.6)
    where = (x_t == MASK) & (torch.arange(16) % 3 == 0)
    sizes: list[int] = []
    hook = model.network.head.register_forward_pre_hook(lambda one, given: sizes.append(given[0].numel() // 16))
    denoiser = model.prepare(PROMPTS)[0]
    some = denoiser(x_t, torch.ones(3), where, torch.arange(3))
    hook.remove()
    assert sizes == [int(where.sum())]
    torch.testing.assert_close(some.exp(), laws(model, x_t, PROMPTS)[where], atol=1e-5, rtol=0)
    assert denoiser(x_t, torch.ones(3), torch.zeros_like(where), torch.arange(3)).shape == (0, TOKENS)


@pytest.mark.parametrize("guidance", [None, 10.0, 0])
def test_it_passes_the_check_of_form(model, guidance):
    findings = check_model(guided(model, guidance), prompts=PROMPTS, forbidden=range(CODES, TOKENS))
    assert not [finding for finding in findings if finding.passed is False]
    assert sum(finding.passed is True for finding in findings) >= 9


def test_guidance_is_asked_for_by_its_scale(folder, model):
    assert amused.load(folder).guidance == 10
    for guidance, passes in ((None, 1), (1, 1), (10.0, 2), (0, 1)):
        denoiser = guided(model, guidance).prepare(PROMPTS)[0]
        assert isinstance(denoiser, ClassifierFreeGuidance if guidance in (10.0, 0) else Grid)
        assert denoiser.passes == passes and denoiser.time_independent
        assert denoiser.uses_prompts is (guidance != 0)
    x_t = codes(2, 16, masked=0.6)
    empty = laws(guided(model, 0), x_t, ["cat", "red"])
    torch.testing.assert_close(empty, laws(model, x_t, ["", ""]), atol=1e-5, rtol=0)
    avoiding = laws(guided(model, 3.0, "cat"), x_t, ["red", "red"])
    p, q = (laws(model, x_t, [text] * 2)[..., :CODES].double() for text in ("red", "cat"))
    mixed = p**3 * q**-2
    masked = x_t == MASK
    want = (mixed / mixed.sum(-1, keepdim=True)).float()
    torch.testing.assert_close(avoiding[..., :CODES][masked], want[masked], atol=1e-4, rtol=0)


def test_codes_are_the_nearest_in_the_codebook(model):
    images = torch.rand(11, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    vq = model.images.network
    states = vq.quant_conv(vq.encoder(images)).permute(0, 2, 3, 1).reshape(11, 16, 1, 4)
    want = (states - vq.quantize.embedding.weight).square().sum(-1).argmin(-1)
    assert torch.equal(model.encode(images), want) and len(want.unique()) > 2
    assert model.encode([]).shape == (0, 16) and model.render(want[:0]).shape == (0, 3, 8, 8)


def test_images_of_pil_are_tensors_rounded_to_bytes(model):
    x = codes(11, 16)
    images, found = model.render(x), model.decode(x)
    assert images.shape == (11, 3, 8, 8) and images.dtype == torch.float32
    assert all(image.size == (8, 8) and image.mode == "RGB" for image in found)
    rounded = (images * 255).round() / 255
    assert torch.equal(model.encode(found), model.encode(list(rounded)))
    assert torch.equal(model.encode([image.convert("RGBA") for image in found]), model.encode(rounded))


def test_what_is_masked_is_grey(model):
    x = codes(2, 16)
    x[0, 5] = MASK
    images = model.render(x)
    assert bool((images[0, :, 2:4, 2:4] == 0.5).all()) and float((images[0, :, 2:4, 4:6] - 0.5).abs().max()) > 1e-3
    torch.testing.assert_close(images[1], model.render(x[1:])[0], atol=1e-5, rtol=0)


def test_images_of_another_kind_are_refused(model):
    for wrong, sentence in (
        (torch.rand(1, 3, 8, 9), "image 0 is torch.float32 of shape (3, 8, 9), and the model draws 8 x 8 pixels"),
        ([torch.rand(3, 8, 8), torch.ones(3, 8, 8).byte()], "image 1 is torch.uint8"),
        ([torch.rand(3, 8, 8), torch.rand(3, 8, 8) * 255], "image 1 leaves [0, 1]: divide bytes by 255"),
    ):
        with pytest.raises(ValueError) as caught:
            model.encode(wrong)
        assert sentence in str(caught.value)


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("judges")
    return {"clip": checkpoints.clip(root / "clip"), "vision": checkpoints.vision(root / "vision")}


def test_image_rewards_steer_a_run(model, judges):
    model, prompts = guided(model, 1.5), ["a good day", "sun"]
    reward = ImageText(model.render, judges["clip"], prompts) + 0.1 * ImageClassifier(model.render, judges["vision"], 1)
    result = generate(model, prompts, reward=reward, sampler="iterref:tries=4", budget=16, alpha=0.05, seed=3)
    assert result.tokens.shape == (2, 16) and int(result.tokens.max()) < CODES and result.cost.nfe <= 16
    torch.testing.assert_close(result.rewards, reward(result.tokens, torch.arange(2)), atol=1e-5, rtol=0)
    assert [image.tobytes() for image in result.texts] == [image.tobytes() for image in model.decode(result.tokens)]
    nothing = {"reward": lambda tokens, rows: torch.zeros(len(rows)), "sampler": "ancestral:steps=4"}
    plain = generate(model, prompts * 4, **nothing).tokens
    assert float(result.best.reward.mean()) > float(reward(plain, torch.arange(2).repeat(4)).mean())
    one, other = (
        generate(model, prompts, reward=reward, sampler="best_of_n:n=3,steps=2", max_rows=rows) for rows in (None, 2)
    )
    assert torch.equal(one.tokens, other.tokens)


def test_functions_of_images_and_given_images_work_too(model):
    prompts = ["a red bird", "cat"]

    def dark(completions: list[Any], prompts: list[str]) -> list[float]:
        assert set(prompts) <= {"a red bird", "cat"}
        return [-sum(image.convert("L").tobytes()) / 255 for image in completions]

    result = generate(model, prompts, reward=dark, sampler="best_of_n:n=4,steps=2")
    assert result.rewards.tolist() == dark(result.texts, prompts)
    start = model.encode(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)))
    problem = Problem(model.prepare(prompts)[0], lambda tokens, rows: -tokens.double().mean(1), start, alpha=0.1)
    refined = sample(sampler_from_string("iterref"), problem, start=start, budget=12, decode=model.decode)
    assert float(refined.best.reward.mean()) > float(-start.double().mean())
    assert refined.texts[0].size == (8, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_half_precision_and_device_are_options(folder, model, dtype):
    full, model = model, amused.load(folder, guidance=None, dtype=dtype, device="cpu")
    assert model.network.head.conv2.weight.dtype == model.reader.encoder.dtype == dtype
    assert next(model.images.network.parameters()).dtype == torch.float32  # it overflows in halves
    findings = check_model(model, prompts=PROMPTS, tolerance=5e-2)
    assert not [finding for finding in findings if finding.passed is False]
    x_t = codes(3, 16, masked=0.6)
    torch.testing.assert_close(laws(model, x_t, PROMPTS), laws(full, x_t, PROMPTS), atol=0.1, rtol=0)


def test_the_transformer_is_compiled_on_demand(model, monkeypatch):
    asked: list[tuple[str, dict[str, bool]]] = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda self, **options: asked.append((type(self).__name__, options)))
    model.compile()
    assert asked == [("BasicTransformerBlock", {"dynamic": True, "mode": None})] * 2


def test_a_pipeline_is_recognised(own):
    change(own / "model_index.json", _class_name="AmusedInpaintPipeline")
    assert amused.load(own).length
    change(own / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(ValueError, match="no model_index.json that names an AmusedPipeline"):
        amused.load(own)


def test_only_data_is_asked_of_the_hub(folder, monkeypatch):
    asked: dict[str, Any] = {}

    def fetched(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    amused.load("amused/amused-256", revision="abc")
    from fnmatch import fnmatch

    files = {
        True: ("model_index.json", "vqvae/config.json", "vqvae/diffusion_pytorch_model.safetensors",
               "text_encoder/model.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt",
               "scheduler/scheduler_config.json"),
        False: ("transformer/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin", "pipeline.py",
                "transformer/diffusion_pytorch_model.fp16.safetensors", "vqvae/diffusion_pytorch_model.fp16.bin"),
    }  # fmt: skip
    assert asked["name"] == "amused/amused-256" and asked["revision"] == "abc"
    for wanted, names in files.items():
        for file in names:
            assert any(fnmatch(file, pattern) for pattern in asked["allow_patterns"]) is wanted, file


def test_without_diffusers_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"needs diffusers: pip install 'iterref\[images\]'"):
        amused.load(folder)


def test_missing_and_pickled_parts_are_named(own):
    weights = own / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match=r"transformer holds diffusion_pytorch_model.bin and no \*.safetensors"):
        amused.load(own)
    (own / "tokenizer" / "vocab.json").unlink()
    with pytest.raises(FileNotFoundError, match="no vocab.json and no tokenizer.json"):
        amused.load(own)
    (own / "vqvae" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="vqvae has no config.json"):
        amused.load(own)


@pytest.mark.parametrize(
    ("file", "entries", "sentence"),
    [
        ("scheduler/scheduler_config.json", {"mask_token_id": 7}, "with 7, and its transformer was trained with 8"),
        ("scheduler/scheduler_config.json", {"masking_schedule": "sine"}, "'sine': known are cosine and linear"),
        ("transformer/config.json", {"num_hidden_layers": 1}, "do not make a UVit2DModel of the sizes in config.json"),
        ("transformer/config.json", {"intermediate_size": 32}, "has shape .* and not .*: the two files belong to"),
        ("transformer/config.json", {"num_hidden_layers": 3}, "is missing"),
        ("transformer/config.json", {"block_num_heads": 0}, "config.json of .*transformer is none of UVit2DModel"),
        ("transformer/config.json", {"vocab_size": None}, "no whole number 'vocab_size'"),
        ("vqvae/config.json", {"lookup_from_codebook": False}, "another family"),
        ("text_encoder/config.json", {"vocab_size": 5}, "tokens and .*text_encoder knows 5"),
        ("text_encoder/config.json", {"hidden_size": 32}, "do not make a CLIPTextModelWithProjection"),
    ],
)
def test_parts_that_do_not_fit_are_refused(own, file, entries, sentence):
    change(own / file, **entries)
    with pytest.raises(ValueError, match=sentence):
        amused.load(own)


def test_parts_of_two_models_are_refused(own, tmp_path):
    other = pipeline(tmp_path / "other", codes=4)
    (own / "vqvae").rename(own / "its")
    (other / "vqvae").rename(own / "vqvae")
    with pytest.raises(ValueError, match="not belong together: 4 codes of the VQ model, and its transformer reads 6"):
        amused.load(own)


def test_options_and_prompts_are_refused_early(folder, model):
    for wrong, sentence in (
        ({"height": 7}, "draws multiples of 2 pixels, got 7 x 8"),
        ({"width": 0}, "got 8 x 0"),
        ({"guidance": -1.0}, "scale must be finite and not negative, got -1.0"),
        ({"guidance": float("inf")}, "scale must be finite"),
    ):
        with pytest.raises(ValueError, match=sentence):
            amused.load(folder, **wrong)
    with pytest.raises(ValueError, match="there are no prompts"):
        model.prepare([])
    with pytest.raises(ValueError, match="prompt 1 has 22 tokens and the model reads 12: shorten it"):
        model.prepare(["cat", "sun " * 20])
    with pytest.raises(ValueError, match="prompt 0 has 22 tokens"):
        guided(model, 2.0, "sun " * 20).prepare(["cat"])
