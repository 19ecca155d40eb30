"""Text: what holds of a text model, its tokenizer and its prompts, and of the denoiser that it makes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iterref.check.probe import TIMES, Finding, Probe, apart, better
from iterref.check.tokens import check
from iterref.denoiser import Denoiser
from iterref.models.base import TextModel
from iterref.random import Rng

ROWS = 8  # canvases where no text is given


def check_model(
    model: TextModel,
    texts: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    *,
    forbidden: Sequence[int] = (),
    seed: int = 0,
    tolerance: float = 1e-4,
) -> list[Finding]:
    """What holds of a text model and its denoiser, tried on R >= 2 real texts, of R `prompts` if the model needs them.

    Without texts, form alone is judged, on tokens that the denoiser itself draws. The options are those of `check`.
    Raises `ValueError` as `check`, `prepare` and `encode` do, and for a number of prompts that is not the texts'.
    """
    if texts is not None and prompts is not None and len(texts) != len(prompts):
        raise ValueError(f"there are {len(texts)} texts and {len(prompts)} prompts: give one prompt a text")
    named = prompts if prompts is not None else [""] * (ROWS if texts is None else len(texts))
    denoiser, canvas, free = model.prepare(named)
    rows = torch.arange(len(canvas), device=canvas.device)
    tokens = drawn(denoiser, canvas, free, rows, seed) if texts is None else model.encode(texts)
    findings = [] if texts is None else [round_trip(model, texts, tokens)]
    several = prompts or texts or invented(model, tokens)
    if several:
        findings.append(unequal(model, several, tolerance))
    if texts is not None:
        findings.append(frame(model, texts, named, seed))
    return findings + check(
        denoiser, tokens, free, rows, real=texts is not None, forbidden=forbidden, seed=seed, tolerance=tolerance
    )


def drawn(denoiser: Denoiser, canvas: Tensor, free: Tensor, rows: Tensor, seed: int) -> Tensor:
    """Finished canvases (R, L), drawn in one go from what the denoiser says of pure noise: tokens that are possible."""
    rng = Rng.seeded(seed, len(canvas), device=canvas.device)
    x = torch.where(free, denoiser.noise.prior(canvas.shape[1], rng.fork("prior")), canvas)
    with torch.inference_mode():
        law = denoiser(x, torch.ones(len(x), dtype=torch.float64, device=x.device), free, rows)
    x[free] = rng.fork("draw").categorical(law, free)[0]
    return x


def round_trip(model: TextModel, texts: Sequence[str], tokens: Tensor) -> Finding:
    """Decoding and encoding again changes nothing."""
    once = model.decode(tokens)
    twice = model.decode(model.encode(once))
    odd = [row for row, (one, two) in enumerate(zip(once, twice, strict=True)) if one != two or not one]
    if odd:
        sentence = f"text {odd[0]} reads {once[odd[0]]!r} once and {twice[odd[0]]!r} twice encoded and decoded"
        return Finding("tokenizer", False, sentence)
    changed = sum(one != text for one, text in zip(once, texts, strict=True))
    return Finding("tokenizer", True, f"encoding and decoding is stable, and changes {changed} of {len(texts)} texts")


def invented(model: TextModel, tokens: Tensor) -> list[str]:
    """Prompts where none were given: what the drawn canvases read as, if the model reads it."""
    try:
        texts = [str(text) for text in model.decode(tokens)]
        model.prepare(texts)
    except ValueError:
        return []
    return texts if any(len(text.split()) > 1 for text in texts) else []


def frame(model: TextModel, texts: Sequence[str], prompts: Sequence[str], seed: int) -> Finding:
    """Texts are as likely as under any other reading of the same network: other special tokens around them, filler in
    sight or hidden."""
    own = likelihood(model, texts, prompts, seed)
    found = [(better(likelihood(other, texts, prompts, seed), own), name) for name, other in model.readings().items()]
    if not found:
        return Finding("frame", None, "there is no other reading of this model to compare with")
    gain, name = max(found)
    if gain:
        return Finding("frame", False, f"texts are likelier by {gain:.2f} nats a token {name}: check the tokenizer")
    return Finding("frame", True, f"texts are no likelier {' or '.join(name for _, name in found)}")


def likelihood(model: TextModel, texts: Sequence[str], prompts: Sequence[str], seed: int) -> Tensor:
    """The mean log-probability of every text's own tokens where some are hidden, (R,) float64."""
    denoiser, canvas, free = model.prepare(prompts)
    tokens, rows = model.encode(texts), torch.arange(len(canvas), device=canvas.device)
    over = torch.isin(tokens, torch.tensor(list(model.ends), dtype=torch.long, device=tokens.device)) & free
    own = free & (over.cumsum(1) == 0)
    probe = Probe(denoiser, tokens, own, rows, torch.zeros(0, dtype=torch.long), seed, 0.0)
    found = []
    with torch.inference_mode():
        for t in TIMES:
            x_t, where = probe.noisy(t)
            found.append(probe.predicted(probe.law(x_t, t, where), where))
    return torch.stack(found).mean(0)


def unequal(model: TextModel, prompts: Sequence[str], tolerance: float) -> Finding:
    """A prompt's law is the same alone and in a batch with longer and shorter ones."""
    words = [prompt.split() for prompt in prompts]
    # the first, which is asked alone too, among the shortest
    prompts = [" ".join(some[: max(1, len(some) // (4 - row % 3))]) for row, some in enumerate(words)]
    with torch.inference_mode():
        alone, together = opening(model, prompts[:1]), opening(model, prompts)
        off = apart(alone, together[: len(alone)])
    return Finding(
        "prompts", off <= tolerance, f"a prompt alone and among unequal ones gets the same laws within {off:.1e}"
    )


def opening(model: TextModel, prompts: Sequence[str]) -> Tensor:
    """The laws (M, V) of the first free position of every prompt's canvas."""
    denoiser, canvas, free = model.prepare(prompts)
    where = torch.nn.functional.one_hot(free.int().argmax(1), canvas.shape[1]).bool()
    times = torch.full((len(canvas),), TIMES[1], dtype=torch.float64, device=canvas.device)
    return denoiser(canvas, times, where, torch.arange(len(canvas), device=canvas.device))
