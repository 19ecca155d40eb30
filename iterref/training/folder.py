"""Folder: what a training run keeps: a checkpoint to resume from, and an export for `Summarizer.load`.

    checkpoint.pt   options, texts' digest, tokenizer, weights, averages, optimizers, progress       replaced at once
    tokenizer.json, train_curve.csv, weights.safetensors, then config.json with their digests        the export

Each file is replaced atomically, and an export that broke off is told from a whole one by the digests.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from io import BytesIO, StringIO
from json import dumps
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer

from iterref.files import expect_writable, write_whole
from iterref.models.tiny_news import FORMAT, Summarizer
from iterref.training.config import TrainConfig
from iterref.training.data import EOS
from iterref.training.trainer import Trainer

CHECKPOINT = "iterref-checkpoint-2"
ANEW = "give another folder to write, or begin anew with resume=False (--no-resume)"
# What may differ from one part of a run to the next: it is reported and recorded. All else is refused.
FREE = ("steps", "cooldown", "validation", "validation_every", "validation_rows", "checkpoint_minutes", "threads")
UNCOMPARED = ("train", "out")  # names of places; the texts themselves are compared


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A folder made, found writable, and held by one run at a time where the system has `flock`. Raises `ValueError`
    for a folder that another run holds, or that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made a folder ({error.strerror}): give another place to write") from None
    expect_writable(folder / "checkpoint.pt")
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is training in {folder}: wait for it, or give another folder") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def save_checkpoint(trainer: Trainer, folder: Path, texts: str, tokenizer: Tokenizer, changes: list[Any]) -> None:
    """Writes everything a resumed run needs. Raises `Diverged` for bad weights, and `OSError`."""
    record = {
        "format": CHECKPOINT, "options": asdict(trainer.config), "texts": texts, "tokenizer": tokenizer.to_str(),
        "torch": str(torch.__version__), "changes": changes, "state": trainer.state(),
    }  # fmt: skip
    buffer = BytesIO()
    torch.save(record, buffer)
    data = buffer.getvalue()
    write_whole(folder / "checkpoint.pt", data + sha256(data).digest())  # torch notices no changed byte


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote. Raises `ValueError` for a damaged file, or one of another version."""
    data = (folder / "checkpoint.pt").read_bytes()
    whole = sha256(data[:-32]).digest() == data[-32:]
    record = torch.load(BytesIO(data[:-32]), weights_only=True) if whole else None
    if not isinstance(record, dict) or record.get("format") != CHECKPOINT:
        raise damaged(folder)
    return record


def damaged(folder: Path) -> ValueError:
    """What to raise for a checkpoint that cannot be read."""
    return ValueError(f"{folder / 'checkpoint.pt'} is damaged, or of another version: bring back a copy of it, {ANEW}")


def changed_options(record: dict[str, Any], config: TrainConfig, texts: str) -> dict[str, Any]:
    """The options that may and do differ from those of the checkpoint, each as [then, now]. Raises `ValueError` naming
    every other one, for other texts, and for rates that would have been others by now."""
    folder = Path(config.out)
    old: dict[str, Any] = asdict(TrainConfig(**record["options"]))  # a run of before an option was has its default
    if record["texts"] != texts:
        raise ValueError(f"{folder} holds a run on other texts: {ANEW}")
    then, now = {**old, "torch": record["torch"]}, {**asdict(config), "torch": str(torch.__version__)}
    others = [name for name in now if name not in UNCOMPARED and then.get(name) != now[name]]
    differ = {name: [then.get(name), now[name]] for name in others}
    fixed = {name: pair for name, pair in differ.items() if name not in (*FREE, "torch")}
    if fixed:
        listed = ", ".join(f"{name} {old!r} and not {new!r}" for name, (old, new) in fixed.items())
        raise ValueError(f"{folder} holds a run with {listed}: give the options it was begun with, or {ANEW}")
    step = record["state"]["step"]
    if config.steps < step:
        raise ValueError(f"{folder} holds a run of {step} steps, and steps is {config.steps}: raise steps, or {ANEW}")
    before = TrainConfig(**old)
    if any(before.rate_share(k) != config.rate_share(k) for k in range(step)):
        new, was = (f"steps {one.steps} and cooldown {one.cooldown}" for one in (config, before))
        raise ValueError(f"at step {step} the learning rates would not be those of {new}: give {was}, or {ANEW}")
    return differ


def export(trainer: Trainer, folder: Path, tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
    """Writes a folder of averaged weights in float16 which `Summarizer.load` reads, and reads it back. `facts` about
    the run are recorded. Raises `OSError` where it cannot be written."""
    config = trainer.config
    curve = StringIO(newline="")
    writer = csv.writer(curve)
    writer.writerow(("step", "seconds", "loss", "validation_loss"))
    writer.writerows((step, f"{s:.0f}", f"{a:.4f}", f"{b:.4f}") for step, s, a, b in trainer.curve)
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "train_curve.csv": curve.getvalue().encode(),
        "weights.safetensors": save({name: p.half().contiguous() for name, p in trainer.average.items()}),
    }
    names: dict[str, Any] = {"train": [Path(file).name for file in config.train], "out": folder.name}
    names |= {name: place and Path(place).name for name in ("validation", "init") if (place := getattr(config, name))}
    record = {
        "format": FORMAT, "noise": "absorbing", "eos": EOS, "source_length": config.source_length,
        "length": config.length, "prompted": trainer.prompted, "form": config.form,
        "transformer": asdict(trainer.network.options),
        "training": asdict(config) | names, "steps_done": trainer.step, **facts,
        "sha256": {name: sha256(data).hexdigest() for name, data in files.items() if name != "train_curve.csv"},
    }  # fmt: skip
    for name, data in files.items():
        write_whole(folder / name, data)
    write_whole(folder / "config.json", dumps(record, indent=1) + "\n")
    Summarizer.load(folder)
