"""Training: the masked and the uniform diffusion losses, and a small trainer of models of summaries or of texts.

    masked    E_t (1 / t) sum over masked i of -log p(x_0^i | x_t)        (Sahoo et al. 2024, arXiv:2406.07524, eq. 10)
    uniform   E_t mean over all i of -log p(x_0^i | x_t)                  (Austin et al. 2021, arXiv:2107.03006, eq. 5)

With a_t = 1 - t and t uniform, the number n of masked tokens of L is uniform on 0 .. L, and the first law equals
(L + 1) E_n mean over masked i of -log p: the weight 1 / t becomes one over the realised number of masks, which has the
same expectation and far less noise (Ou et al. 2025, arXiv:2406.03736).
"""

from __future__ import annotations

import csv
import ctypes
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import islice
from math import isnan
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from iterref.interrupts import held_back
from iterref.models.tiny_news import normalise
from iterref.models.transformer import Memory, Transformer, TransformerOptions
from iterref.pairs import EOS, MASK, PAD, SPECIALS, UNKNOWN, Pairs, batches, read_pairs, train_tokenizer
from iterref.progress import Bar

logger = logging.getLogger(__name__)
ANEW = "give another folder to write, or begin anew with resume=False (--no-resume)"


def spread_times(rows: int, generator: torch.Generator) -> Tensor:
    """Times (rows,) in (0, 1], one in each of `rows` equal cells in random order: uniform, with little variance of the
    batch's mean (Kingma et al. 2021, arXiv:2107.00630, appendix I.1)."""
    cell = torch.randperm(rows, generator=generator)
    return 1 - (cell + torch.rand(1, generator=generator)) / rows


def masked_loss(
    network: Transformer, memory: Memory, target: Tensor, weight: Tensor, generator: torch.Generator, copies: int = 1
) -> Tensor:
    """Masked diffusion loss, nats a token, of targets (B, L) long given their encoded sources.

    Every target is masked in `copies` independent ways, which share the encoded source. `weight` (B, L) scales the
    loss of each token, as for the repeated end tokens, which say nothing once the first is known.
    """
    x_0 = target.repeat_interleave(copies, dim=0)
    t = spread_times(len(x_0), generator)[:, None]
    where = torch.rand(x_0.shape, generator=generator) < t
    states = network.decode(x_0.masked_fill(where, network.options.mask), memory, t[:, 0] if network.time else None)
    log_p = network.target_log_probs(states, memory, where, x_0)
    share = weight.repeat_interleave(copies, dim=0) * where / where.sum(1, keepdim=True).clamp_min(1)
    return -(log_p * share[where]).sum() / len(x_0)


def uniform_loss(
    network: Transformer, memory: Memory, target: Tensor, weight: Tensor, generator: torch.Generator, copies: int = 1
) -> Tensor:
    """Uniform diffusion loss, nats a token, of targets (B, L) long: each token is replaced with probability t by one
    drawn from the whole vocabulary, and all are predicted. Arguments as in `masked_loss`. Raises `ValueError` for a
    network without a time input, since noisy tokens do not show how noisy they are."""
    if network.time is None:
        raise ValueError("the uniform loss needs a timed network: set timed=True in its options")
    x_0 = target.repeat_interleave(copies, dim=0)
    t = spread_times(len(x_0), generator)
    noisy = torch.rand(x_0.shape, generator=generator) < t[:, None]
    x_t = torch.where(noisy, torch.randint(network.options.vocab, x_0.shape, generator=generator), x_0)
    everywhere = torch.ones_like(noisy)
    log_p = network.target_log_probs(network.decode(x_t, memory, t), memory, everywhere, x_0)
    return -(log_p * weight.repeat_interleave(copies, dim=0).flatten()).mean()


@dataclass(frozen=True)
class TrainConfig:
    """What a training run is: `train` files and an optional `validation` file of JSON lines with `document` and
    `summary`, or of texts alone, one a line (.txt), packed (.gz) or not; and a folder `out`.

    `normalise` brings raw text to the form in which the model will read it (`iterref.models.tiny_news`).
    The learning rates warm up over `warmup` steps, stay, and fall linearly to 0 over the last `cooldown` steps; both
    may be changed on resuming, before the fall begins. `optimizer` is "muon" (matrices at `matrix_rate`, the rest by
    AdamW at `rate`) or "adamw" (all at `rate`); `precision` is "bfloat16" or "float32". `end_weight` scales the loss of
    repeated end tokens, `keep_weight` that of the encoder's side task: to tell which source tokens the target keeps.
    `ema` is the decay of the averaged weights, which are the ones exported. Raises `ValueError` for a bad option.
    """

    train: tuple[str, ...]
    out: str
    validation: str | None = None
    seed: int = 0
    steps: int = 8_000
    warmup: int = 200
    cooldown: int = 5_500
    batch: int = 64
    copies: int = 2
    length: int = 28
    source_length: int = 96
    vocab: int = 8192
    width: int = 256
    heads: int = 4
    hidden: int = 512
    encoder_layers: int = 4
    decoder_layers: int = 3
    optimizer: str = "muon"
    matrix_rate: float = 4e-3
    rate: float = 1.5e-3
    weight_decay: float = 0.05
    end_weight: float = 0.2
    keep_weight: float = 0.5
    ema: float = 0.999
    clip: float = 1.0
    precision: str = "bfloat16"
    validation_every: int = 500
    validation_rows: int = 500
    checkpoint_minutes: float = 5.0
    threads: int = 2
    normalise: bool = True

    def __post_init__(self) -> None:
        if self.optimizer not in ("muon", "adamw"):
            raise ValueError(f'unknown optimizer {self.optimizer!r}: choose "muon" or "adamw"')
        if self.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
            raise ValueError(f'torch {torch.__version__} has no Muon, 2.9 and later have: choose optimizer="adamw"')
        if self.precision not in ("bfloat16", "float32"):
            raise ValueError(f'unknown precision {self.precision!r}: choose "bfloat16" or "float32"')
        if not 0 <= self.cooldown <= self.steps:
            raise ValueError(f"cooldown {self.cooldown} must be between 0 and the {self.steps} steps")


def token_weight(target: Tensor, end_weight: float) -> Tensor:
    """Weights (B, L): 1 up to and with the first EOS, `end_weight` on the repeated ones."""
    ended = (target == EOS).cumsum(1)
    return torch.where(ended > 1, end_weight, 1.0)


@dataclass
class Trainer:
    """The state of a run: the network, whether it has prompts, a digest of its texts, its running average, the
    optimizers, the steps done and the seconds spent."""

    config: TrainConfig
    network: Transformer
    prompted: bool = True
    texts: str = ""
    average: dict[str, Tensor] = field(init=False)
    optimizers: list[torch.optim.Optimizer] = field(init=False)
    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.average = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, parameter in self.network.named_parameters():
            inner = parameter.ndim == 2 and min(parameter.shape) > 1 and "table" not in name
            (matrices if inner else others).append(parameter)
        if self.config.optimizer == "adamw":
            others, matrices = others + matrices, []
        # weight decay is for matrices only: gains, biases and the token table are left alone
        plain = [p for p in others if p.ndim < 2 or p is self.network.table.weight]
        decayed = [p for p in others if p.ndim == 2 and p is not self.network.table.weight]
        groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": self.config.weight_decay}]
        self.optimizers = [torch.optim.AdamW(groups, lr=self.config.rate, betas=(0.9, 0.98))]
        if matrices:
            self.optimizers.append(
                torch.optim.Muon(
                    matrices,
                    lr=self.config.matrix_rate,
                    weight_decay=self.config.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]

    def rate(self) -> float:
        """The share of the peak learning rate at the present step: warm-up, plateau, linear fall to 0."""
        rise = min(1.0, (self.step + 1) / max(1, self.config.warmup))
        fall = min(1.0, (self.config.steps - self.step) / max(1, self.config.cooldown))
        return rise * fall

    def autocast(self) -> AbstractContextManager[object]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast("cpu", dtype=torch.bfloat16)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The masked loss, and the mean binary cross-entropy of the encoder's kept flags."""
        source, target, keep = batch
        with self.autocast():
            memory = self.network.encode(source)
            weight = token_weight(target, self.config.end_weight)
            loss = masked_loss(self.network, memory, target, weight, generator, self.config.copies)
            logits = self.network.keep_logits(memory)[memory.present]
        return loss, F.binary_cross_entropy_with_logits(logits, keep[memory.present])

    def update(self, batch: tuple[Tensor, Tensor, Tensor]) -> float:
        """One optimizer step; returns the loss. Its noise depends on the seed and the step only, so a run that was
        interrupted goes on as if it had not been."""
        generator = torch.Generator().manual_seed((self.config.seed + 1) * 1_000_000_007 + self.step)
        loss, side = self.loss(batch, generator)
        (loss + self.config.keep_weight * side).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        scale = self.rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # the average forgets its start quickly at first, so that an early export is usable too
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            live = [p.detach() for p in self.network.parameters()]
            torch._foreach_lerp_(list(self.average.values()), live, 1 - decay)
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def validate(self, pairs: Pairs) -> float:
        """Masked loss of the averaged weights, the same masks every time."""
        live = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.network.load_state_dict(self.average)
        generator = torch.Generator().manual_seed(1)
        order = sorted(range(len(pairs.sources)), key=lambda i: len(pairs.sources[i]))
        groups = [order[i : i + self.config.batch] for i in range(0, len(order), self.config.batch)]
        total = sum(float(self.loss(pairs.batch(group), generator)[0]) * len(group) for group in groups)
        self.network.load_state_dict(live)
        return total / len(order)

    def save(self, path: Path) -> None:
        """Everything a resumed run needs, written whole or not at all."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "texts": self.texts,
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def restore(self, path: Path) -> None:
        """Takes up what `save` wrote. Raises `ValueError` for a run on other texts, of another network or optimizer."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state.get("texts", self.texts) != self.texts:
            raise ValueError(f"{path.parent} holds a run on other texts: {ANEW}")
        try:
            self.network.load_state_dict(state["network"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path.parent} holds a run of another network or optimizer: {ANEW}") from error
        self.average = state["average"]
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]


def export(trainer: Trainer, folder: Path) -> None:
    """Writes a folder which `Summarizer.load` reads: averaged weights in float16, config.json and train_curve.csv.
    tokenizer.json is there since the run began."""
    save_file({name: p.half().contiguous() for name, p in trainer.average.items()}, folder / "weights.safetensors")
    record = {
        "format": "iterref-summarizer-1",
        "noise": "absorbing",
        "eos": EOS,
        "source_length": trainer.config.source_length,
        "length": trainer.config.length,
        "prompted": trainer.prompted,
        "transformer": asdict(trainer.network.options),
        "training": {
            **asdict(trainer.config),
            "out": folder.name,
            "train": [Path(p).name for p in trainer.config.train],
            "validation": trainer.config.validation and Path(trainer.config.validation).name,
        },
        "steps_done": trainer.step,
    }
    (folder / "config.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    with open(folder / "train_curve.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "seconds", "loss", "validation_loss"))
        writer.writerows((step, f"{s:.0f}", f"{a:.4f}", f"{b:.4f}") for step, s, a, b in trainer.curve)


def keep_freed_memory() -> None:
    """Asks glibc not to give large freed blocks back to the kernel: every step needs them again, and fetching them page
    by page costs a third of a step. Does nothing where there is no glibc."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads
            mallopt(-4, 0)  # M_MMAP_MAX: no block from mmap
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's top is kept
            mallopt(-2, 2**28)  # M_TOP_PAD: grow in large pieces


def stream(pairs: Pairs, config: TrainConfig, step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches from `step` to the end of the run, the same whether or not the run was interrupted."""
    per_epoch = len(batches(pairs, config.batch, config.seed, 0))
    while step < config.steps:
        epoch = batches(pairs, config.batch, config.seed, step // per_epoch)
        for index in epoch[step % per_epoch :]:
            yield pairs.batch(index)
        step += per_epoch - step % per_epoch


def train(config: TrainConfig, resume: bool = True) -> Path:
    """Trains a masked diffusion model of summaries, or of texts without prompts, and exports it to `config.out`, which
    is returned.

    A run that finds its own checkpoint.pt in the folder goes on from it unless `resume` is False. The folder ends with
    weights.safetensors (float16), config.json, tokenizer.json and train_curve.csv, and is exported at every checkpoint.
    Same files, seed, torch version and number of threads: the same weights, interrupted or not. Ctrl-C ends the step
    under way, saves a checkpoint and raises `KeyboardInterrupt`.

    Raises `ValueError` for files that cannot be used, and for a folder that holds a run of other files or networks.
    """
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    raw = _read(config, config.train)
    # a text with unknown words would teach the tokenizer the letters of the word <unk>
    checkpoint, words = folder / "checkpoint.pt", folder / "tokenizer.json"
    if resumed := resume and checkpoint.exists() and words.exists():
        tokenizer = Tokenizer.from_file(str(words))
    else:
        tokenizer = train_tokenizer((text for d, s in raw if SPECIALS[UNKNOWN] not in (text := d or s)), config.vocab)
        tokenizer.save(str(words))
    options = TransformerOptions(
        vocab=tokenizer.get_vocab_size(),
        mask=MASK,
        pad=PAD,
        width=config.width,
        heads=config.heads,
        hidden=config.hidden,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
    )
    digest = sha256(json.dumps(raw).encode()).hexdigest()
    trainer = Trainer(config, Transformer(options), prompted=bool(raw[0][0]), texts=digest)
    if resumed:
        trainer.restore(checkpoint)
    pairs = Pairs.encode(tokenizer, raw, config.length, config.source_length)
    held = None
    if config.validation is not None:
        rows = _read(config, [config.validation])[: config.validation_rows]
        held = Pairs.encode(tokenizer, rows, config.length, config.source_length)
    weights = sum(p.numel() for p in trainer.average.values())
    logger.info("%d pairs of %d fit, %d weights", len(pairs.sources), len(raw), weights)
    start, saved, mean = time.monotonic() - trainer.seconds, time.monotonic(), float("nan")
    left = islice(stream(pairs, config, trainer.step), max(0, config.steps - trainer.step))
    shown, of = sys.stderr.isatty(), {"total": config.steps, "initial": trainer.step}
    bar = Bar(left, "training", lambda: f"loss {mean:.3f}", shown=shown, **of)
    with held_back() as interrupted, bar:
        for batch in bar:
            loss = trainer.update(batch)
            mean = loss if isnan(mean) else 0.98 * mean + 0.02 * loss
            trainer.seconds = time.monotonic() - start
            last = trainer.step == config.steps
            if last or trainer.step % config.validation_every == 0:
                value = trainer.validate(held) if held is not None else float("nan")
                trainer.curve.append((trainer.step, trainer.seconds, mean, value))
                told = "" if held is None else f", validation {value:.4f}"
                logger.info("step %d, %.0f s, loss %.4f%s", trainer.step, trainer.seconds, mean, told)
            if last or interrupted() or time.monotonic() - saved > 60 * config.checkpoint_minutes:
                trainer.save(checkpoint)
                export(trainer, folder)
                saved = time.monotonic()
            if interrupted() and not last:
                raise KeyboardInterrupt(f"interrupted after step {trainer.step}, which is saved in {folder}")
    if trainer.step >= config.steps:
        export(trainer, folder)
    return folder


def _read(config: TrainConfig, files: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of some files, brought to the form in which the model will read text."""
    pairs = read_pairs(files)
    if not pairs:
        raise ValueError(f"{', '.join(files)} hold no text: give files with a pair or a text a line")
    return [(normalise(d), normalise(s)) for d, s in pairs] if config.normalise else pairs
