"""Checks: everything that holds of a denoiser on finished texts as tokens, and of a text model with its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iterref.check.findings import FORM, LATE, MEANING, TIMES, Finding, Probe, apart, better, shape
from iterref.denoiser import Denoiser
from iterref.lengths import in_front
from iterref.models.base import TextModel
from iterref.random import Rng

ROWS = 8  # canvases where no text is given
ANSWER = 8  # positions of an answer that prompts are compared by, where a canvas is as long as a text


def check(
    denoiser: Denoiser, texts: Tensor, free: Tensor | None = None, rows: Tensor | None = None, *, real: bool = False,
    forbidden: Sequence[int] = (), seed: int = 0, tolerance: float = 1e-4,
) -> list[Finding]:  # fmt: skip
    """What holds of a denoiser, tried on R >= 2 finished texts (R, L) long. `free` (R, L) bool marks the positions that
    are corrupted (all unless given) and `rows` (R,) names the prompts (the first unless given). `real` says that the
    texts are of the kind that the model writes, a few hundred tokens or more; without, meaning is not judged.
    `forbidden` lists tokens that must be impossible. Two probabilities that differ by at most `tolerance` count as
    equal: 1e-4 suits float32, half precision needs about 1e-2. Raises `ValueError` for fewer than two texts or a row
    without a free position."""
    free = torch.ones_like(texts, dtype=torch.bool) if free is None else free
    if len(texts) < 2 or not bool(free.any(1).all()):
        raise ValueError("the check needs two texts or more, each with a free position")
    rows = torch.zeros(len(texts), dtype=torch.long, device=texts.device) if rows is None else rows
    banned = torch.as_tensor(list(forbidden), dtype=torch.long, device=texts.device)
    probe = Probe(denoiser, texts, free, rows, banned, seed, tolerance)
    with torch.inference_mode():
        findings = [shape(probe)]
        if findings[0].passed:  # without its shape, an answer cannot be compared with another
            findings += [one(probe) for one in FORM]
            findings += [one(probe) if real else Finding(one.__name__, None, "needs real texts") for one in MEANING]
    return findings


def check_model(
    model: TextModel, texts: Sequence[str] | None = None, prompts: Sequence[str] | None = None, *,
    forbidden: Sequence[int] = (), seed: int = 0, tolerance: float = 1e-4,
) -> list[Finding]:  # fmt: skip
    """What holds of a text model and its denoiser, tried on R >= 2 real texts, of R `prompts` if the model needs them.
    Without texts, form alone is judged, on tokens that the denoiser itself draws. The options are those of `check`.
    Raises `ValueError` as `check`, `prepare` and `encode` do, and for a number of prompts that is not the texts'."""
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
        free = in_front(model, tokens, free) if model.fixed_length else free
    return findings + check(
        denoiser, tokens, free, rows, real=texts is not None, forbidden=forbidden, seed=seed, tolerance=tolerance
    )


def table(findings: Sequence[Finding]) -> str:
    """One line a finding: pass, FAIL or a dash, its name, its sentence."""
    marks = {True: "pass", False: "FAIL", None: "-"}
    width = max(len(finding.name) for finding in findings)
    return "\n".join(f"{marks[one.passed]:<5}{one.name:<{width + 2}}{one.sentence}" for one in findings)


def drawn(denoiser: Denoiser, canvas: Tensor, free: Tensor, rows: Tensor, seed: int) -> Tensor:
    """Finished canvases (R, L), drawn in one go from what the denoiser says of pure noise: tokens that are possible."""
    rng = Rng.seeded(seed, len(canvas), device=canvas.device)
    x = torch.where(free, denoiser.noise.prior(canvas.shape[1], rng.fork("prior")), canvas)
    with torch.inference_mode():
        log_p = denoiser(x, torch.ones(len(x), dtype=torch.float64, device=x.device), free, rows)
        log_p = log_p.nan_to_num(nan=0.0, posinf=0.0)  # of which `shape` will tell
    x[free] = rng.fork("draw").categorical(log_p, free)[0]
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
    """Texts are as likely as under any other reading: other special tokens, filler in sight or hidden."""
    own = likelihood(model, texts, prompts, seed)
    found = [(better(likelihood(other, texts, prompts, seed), own), name) for name, other in model.readings().items()]
    if not found:
        return Finding("frame", None, "there is no other reading of this model to compare with")
    gain, name = max(found)
    if gain:
        return Finding("frame", False, f"texts are likelier by {gain:.2f} nats a token {name}: check the tokenizer")
    return Finding("frame", True, f"texts are no likelier {' or '.join(name for _, name in found)}")


def likelihood(model: TextModel, texts: Sequence[str], prompts: Sequence[str], seed: int) -> Tensor:
    """The mean log-probability of every text's own tokens where some are masked, (R,) float64."""
    denoiser, canvas, free = model.prepare(prompts)
    tokens, rows = model.encode(texts), torch.arange(len(canvas), device=canvas.device)
    own = in_front(model, tokens, free)
    probe = Probe(denoiser, tokens, own, rows, torch.zeros(0, dtype=torch.long), seed, 0.0)
    with torch.inference_mode():
        return torch.stack([probe.predicted(answer, where) for _, where, answer in map(probe.at, TIMES)]).mean(0)


def unequal(model: TextModel, prompts: Sequence[str], tolerance: float) -> Finding:
    """A prompt's answer is the same alone and in a batch with longer and shorter ones."""
    between = " " if not model.fixed_length or any(" " in prompt for prompt in prompts) else ""  # residues have none
    words = [prompt.split() if between else list(prompt) for prompt in prompts]
    # the first, which is asked alone too, among the shortest
    prompts = [between.join(some[: max(1, len(some) // (4 - row % 3))]) for row, some in enumerate(words)]
    if model.fixed_length:  # whole texts that leave no room for as long an answer
        model = model.with_length(min(model.length, ANSWER))
    with torch.inference_mode():
        alone, together = opening(model, prompts[:1]), opening(model, prompts)
    off = apart(alone, together[: len(alone)])
    return Finding("prompts", off <= tolerance, f"a prompt alone and among unequal ones differs by {off:.1e}")


def opening(model: TextModel, prompts: Sequence[str]) -> Tensor:
    """The posteriors (M, V) of the first free position of every prompt's canvas."""
    denoiser, canvas, free = model.prepare(prompts)
    where = torch.nn.functional.one_hot(free.int().argmax(1), canvas.shape[1]).bool()
    times = torch.full((len(canvas),), LATE, dtype=torch.float64, device=canvas.device)
    return denoiser(canvas, times, where, torch.arange(len(canvas), device=canvas.device))
