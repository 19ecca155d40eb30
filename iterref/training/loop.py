"""Loop: a training run from files of text to a folder with a model."""

from __future__ import annotations

import ctypes
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from itertools import islice
from math import nan
from pathlib import Path

import torch
from tokenizers import Tokenizer

from iterref.fence import fenced
from iterref.interrupts import held_back
from iterref.loading import load
from iterref.models.tiny_news import Summarizer, normalise
from iterref.models.transformer import Transformer
from iterref.numbers import whole_number
from iterref.progress import Bar
from iterref.training.config import TrainConfig
from iterref.training.data import SPECIALS, UNKNOWN, Batch, Pairs, batches, read_pairs, train_tokenizer
from iterref.training.folder import ANEW, changed_options, claimed, damaged, export, read_checkpoint, save_checkpoint
from iterref.training.trainer import Diverged, Trainer

logger = logging.getLogger(__name__)
FEW = 0.05  # texts that a corpus in the model's form may have in another: abbreviations that it does not know


def train(config: TrainConfig, resume: bool = True, stop: int | None = None) -> Path:
    """Trains a masked diffusion model of summaries, or of texts without prompts, and exports it to the folder
    `config.out`, which is returned, as at every checkpoint (`iterref.training.folder`).

    A run that finds a checkpoint.pt in the folder goes on from it unless `resume` is False. Same files, seed, torch
    version and number of threads: the same weights, interrupted or not. Ctrl-C ends the step under way, saves a
    checkpoint and raises `KeyboardInterrupt`. With `stop` the run ends after so many of its steps, with the rates that
    it has there; without it the same command goes on.

    Raises `FileNotFoundError` for files that are not there; `ValueError` for those that cannot be used, for a folder
    that cannot be written, that another run holds, or that holds a run of other texts or options; `Diverged` (a
    `RuntimeError`) for losses, gradients or weights that are not finite, and `OSError` for a full disk. The last good
    checkpoint is kept either way."""
    folder = Path(config.out)
    last = config.steps if stop is None else whole_number("stop", stop, "pass after how many steps the run ends")
    if last < 1:
        raise ValueError(f"stop must be at least 1, got {stop}: leave it out for the whole run")
    texts = _read(config, config.train)
    held_out = None if config.validation is None else _read(config, [config.validation])[: config.validation_rows]
    with claimed(folder), own_torch_state(config.seed, config.threads):
        keep_freed_memory()
        _run(config, folder, texts, held_out, resume, min(config.steps, last))
    return folder


def _run(
    config: TrainConfig, folder: Path, texts: list[tuple[str, str]], held_out: list[tuple[str, str]] | None,
    resume: bool, steps: int,
) -> None:  # fmt: skip
    digest = sha256(json.dumps(texts).encode()).hexdigest()
    record = read_checkpoint(folder) if resume and (folder / "checkpoint.pt").exists() else None
    if record is None and resume and (folder / "config.json").exists():
        raise ValueError(f"{folder} holds a model and no checkpoint to go on from, and it would be lost: {ANEW}")
    changes = []
    if record is not None:
        changes = record["changes"]
        if different := changed_options(record, config, digest):
            changes = [*changes, {"step": record["state"]["step"], **different}]
            told = ", ".join(f"{name} {now!r}, until now {then!r}" for name, (then, now) in different.items())
            logger.warning("the run in %s goes on with %s", folder, told)
    prompted = bool(texts[0][0].strip())
    if record is None and config.init is not None:
        tokenizer, network = _start(config, texts, prompted)
    else:
        tokenizer = _tokenizer(texts, config) if record is None else Tokenizer.from_str(record["tokenizer"])
        network = Transformer(config.network(tokenizer.get_vocab_size()))
    tokenizer.encode_special_tokens = config.form == "plain"  # one that a text spells is text
    trainer = Trainer(config, network, prompted)
    if record is not None:
        try:
            trainer.restore(record["state"])
        except (RuntimeError, KeyError, TypeError, ValueError):
            raise damaged(folder) from None
    pairs = _fitting(config, tokenizer, texts, "training")
    held = None if held_out is None else _validation(config, tokenizer, texts, held_out)
    logger.info("%d weights", sum(p.numel() for p in trainer.average.values()))
    facts = {"pairs": len(pairs.sources), "pairs_read": len(texts), "changes": changes}
    start, saved = time.monotonic() - trainer.seconds, time.monotonic()
    kept = f"step {trainer.step}" if record is not None else ""

    def save() -> None:
        nonlocal saved, kept
        save_checkpoint(trainer, folder, digest, tokenizer, changes)
        kept = f"step {trainer.step}"
        export(trainer, folder, tokenizer, facts)
        saved = time.monotonic()

    left = islice(stream(pairs, config, trainer.step), max(0, steps - trainer.step))
    shown, of = sys.stderr.isatty(), {"total": steps, "initial": trainer.step}
    bar = Bar(left, "training", lambda: f"loss {trainer.mean:.3f}", shown=shown, **of)
    try:
        with held_back() as interrupted, bar:
            if trainer.step >= steps:
                save()
            for batch in bar:
                trainer.update(batch)
                trainer.seconds = time.monotonic() - start
                last = trainer.step == steps
                if last or trainer.step % config.validation_every == 0:
                    value = trainer.validate(held) if held is not None else nan
                    trainer.curve.append((trainer.step, trainer.seconds, trainer.mean, value))
                    told = "" if held is None else f", validation {value:.4f}"
                    logger.info("step %d, %.0f s, loss %.4f%s", trainer.step, trainer.seconds, trainer.mean, told)
                if last or interrupted() or time.monotonic() - saved > 60 * config.checkpoint_minutes:
                    save()
                if interrupted() and not last:
                    raise KeyboardInterrupt(f"interrupted after step {trainer.step}, which is saved in {folder}")
    except (Diverged, OSError) as error:
        remains = f"the checkpoint of {kept} is kept in {folder}" if kept else "this run has no checkpoint yet"
        lower = "begin anew (--no-resume) with a lower rate and matrix_rate, a longer warmup or precision float32"
        advice = f"; {lower}" if isinstance(error, Diverged) else ""
        raise type(error)(f"stopped at step {trainer.step}: {error}; {remains}{advice}") from error


def stream(pairs: Pairs, config: TrainConfig, step: int) -> Iterator[Batch]:
    """Batches from `step` to the end of the run, the same whether or not the run was interrupted."""
    per_epoch = len(batches(pairs, config.batch, config.seed, 0))
    while step < config.steps:
        epoch = batches(pairs, config.batch, config.seed, step // per_epoch)
        for index in epoch[step % per_epoch :]:
            yield pairs.batch(index)
        step += per_epoch - step % per_epoch


def _read(config: TrainConfig, files: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of some files, in the form in which the model will read text."""
    read = read_pairs(files, config.form)
    if not read:
        raise ValueError(f"{', '.join(files)} hold no text: give files with a pair or a text a line")
    if config.form == "plain":
        return read
    pairs = [(normalise(document), normalise(summary)) for document, summary in read]
    if config.normalise:
        return pairs
    other = [text for pair in read for text in pair if normalise(text) != text]
    if other:
        told = f"{len(other)} texts are not in the form in which the model will read them, as {other[0][:60]!r}"
        told += f", which it reads as {normalise(other[0])[:60]!r}"
        if len(other) > FEW * len(read):
            raise ValueError(f"{told}: leave out normalise=False (--no-normalise)")
        logger.warning("%s", told)
    return read


def _tokenizer(texts: Sequence[tuple[str, str]], config: TrainConfig) -> Tokenizer:
    if config.form == "plain":  # a document need not have the words of its text
        known: Iterable[str] = (text for pair in texts for text in pair if text)
    else:  # a text with unknown words would teach the tokenizer the letters of the word <unk>
        known = (text for d, s in texts if SPECIALS[UNKNOWN] not in (text := d or s))
    tokenizer = train_tokenizer(known, config.vocab, config.form)
    if (size := tokenizer.get_vocab_size()) < config.vocab:
        logger.warning("the texts give a vocabulary of %d tokens, vocab allows %d", size, config.vocab)
    return tokenizer


def _start(config: TrainConfig, texts: Sequence[tuple[str, str]], prompted: bool) -> tuple[Tokenizer, Transformer]:
    """The tokenizer and the network of the model `init`. Raises `FileNotFoundError` where it is not there, and
    `ValueError` for one that training did not write, that is of another kind, or of other sizes than asked for."""
    model = load(config.init)
    if not isinstance(model, Summarizer):
        raise ValueError(f"init names {config.init}, which training did not write: give a folder that it wrote")
    if model.prompted != prompted:
        raise ValueError(f"{config.init} and the texts differ in whether a text has a document: train on its kind")
    own = {**asdict(model.network.options), "form": model.form}
    wanted = {**asdict(config.network(config.vocab)), "form": config.form}
    if other := [f"{name}={own[name]!r}" for name in own if own[name] != wanted[name]]:
        raise ValueError(f"{config.init} has another form or other sizes than this run: say {', '.join(other)}")
    return model.tokenizer, model.network.requires_grad_(True)


def _validation(
    config: TrainConfig, tokenizer: Tokenizer, texts: Sequence[tuple[str, str]], held: Sequence[tuple[str, str]]
) -> Pairs:
    """The validation pairs. Raises `ValueError` for those of another kind, and where none fits."""
    if bool(held[0][0].strip()) != bool(texts[0][0].strip()):
        told = f"{config.validation} has documents where the training texts have none, or the other way about"
        raise ValueError(f"{told}: validate on the kind that is trained on")
    known = {document or summary for document, summary in texts}
    both = sum((document or summary) in known for document, summary in held)
    if both:
        told = "%d of %d validation texts are among the training texts: their loss does not speak of new ones"
        logger.warning(told, both, len(held))
    try:
        return _fitting(config, tokenizer, held, "validation")
    except ValueError as error:
        raise ValueError(f"of {config.validation}, {error}") from None


def _fitting(config: TrainConfig, tokenizer: Tokenizer, texts: Sequence[tuple[str, str]], what: str) -> Pairs:
    """The pairs that fit, counted; a warning where most are left out."""
    pairs = Pairs.encode(tokenizer, texts, config.length, config.source_length)
    counts = len(pairs.sources), len(texts), what
    if 2 * len(pairs.sources) < len(texts):
        why = "the others are too long for length or source_length, or hold what the tokenizer lacks"
        logger.warning("%d of %d %s texts fit: %s", *counts, why)
    else:
        logger.info("%d of %d %s texts fit", *counts)
    return pairs


def keep_freed_memory() -> None:
    """Asks glibc, where there is one, not to give large freed blocks back to the kernel: every step needs them again,
    and fetching them page by page costs a third of a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads
        mallopt(-4, 0)  # M_MMAP_MAX: no block from mmap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's top is kept
        mallopt(-2, 2**28)  # M_TOP_PAD: grow in large pieces


@contextmanager
def own_torch_state(seed: int, threads: int) -> Iterator[None]:
    """A seed and a number of threads of the run's own, float32 on the CPU with gradients and without autocast, whatever
    the caller has set; all of it is as it was afterwards."""
    count = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with (
            torch.random.fork_rng(devices=[]), torch.inference_mode(False), fenced(torch.device("cpu")),
            torch.enable_grad(),
        ):  # fmt: skip
            torch.random.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(count)
