"""The result: what a run returns, and the files that it is written to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from iterref.arrays import arrays, tensor
from iterref.budget import Cost
from iterref.files import write_whole
from iterref.lines import finite
from iterref.numbers import name_rows
from iterref.optional import require
from iterref.particles import Particles
from iterref.trace import Trace

if TYPE_CHECKING:
    from iterref.samplers.base import Sampler

# Tokens of finished texts that may wait to be compared with the best.
WAITING = 2**18


@dataclass
class Best:
    """The best finished text seen by a run, a row: `tokens` (B, L), `reward` (B,) float64, -inf before there is one."""

    tokens: Tensor
    reward: Tensor
    latest: tuple[Tensor, Tensor] | None = None  # clean samples (R, L) and their rows (R,), judged or not

    @classmethod
    def none(cls, canvas: Tensor) -> Best:
        """Nothing seen yet of canvases (B, L)."""
        return cls(canvas.clone(), torch.full(canvas.shape[:1], -torch.inf, dtype=torch.float64, device=canvas.device))

    def see(self, tokens: Tensor, reward: Tensor, rows: Tensor) -> None:
        """Takes note of (R, L) finished texts with (R,) rewards that belong to (R,) rows."""
        # Chosen by `where` and not by masks as indices, for whose number of elements the host would have to wait.
        top = torch.full_like(self.reward, -torch.inf).scatter_reduce(0, rows, reward, "amax")
        better = top > self.reward
        place = torch.arange(len(rows), device=rows.device).where(reward == top[rows], len(rows))
        first = torch.full_like(better, len(rows), dtype=torch.long).scatter_reduce(0, rows, place, "amin")
        if len(rows):
            self.tokens = torch.where(better[:, None], tokens[first.clamp_max_(len(rows) - 1)], self.tokens)
        self.reward = torch.maximum(self.reward, top)

    def or_latest(self) -> Tensor:
        """The best texts (B, L), of rows without any the latest clean sample: what a run that breaks off has."""
        drafts = self.tokens.clone()
        if self.latest is not None:
            drafts[self.latest[1]] = self.latest[0]
        return drafts.where(torch.isneginf(self.reward)[:, None], self.tokens)

    def end(self, tokens: Tensor, reward: Tensor) -> None:
        """Takes note of the last states (B, L), (B,), which win ties: the chain has had most time to reach its
        distribution, so of texts with one reward the last is the likeliest."""
        self.see(tokens, reward, torch.arange(len(tokens), device=tokens.device))
        self.tokens = torch.where((reward == self.reward)[:, None], tokens, self.tokens)


@dataclass
class Seen:
    """Finished texts that a run has seen, compared with the best so far when somebody asks: those of several moves are
    one comparison then, in place of one each. The highest rewards alone are known sooner."""

    best: Best
    waiting: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    tokens: int = 0
    top: Tensor | None = None  # (B,) of all but the last texts that wait, so many
    unseen: int = 0

    def latest(self, tokens: Tensor, rows: Tensor) -> None:
        """Takes note of clean samples (R, L) that belong to (R,) rows, before they are judged."""
        self.best.latest = tokens, rows

    def add(self, tokens: Tensor, reward: Tensor, rows: Tensor) -> None:
        """As `Best.see`, later."""
        self.waiting.append((tokens, reward, rows))
        self.tokens += tokens.numel()
        self.unseen += 1
        if self.tokens > WAITING:
            self.settled()

    def highest(self) -> Tensor:
        """The best rewards (B,) of all texts seen, a tensor that nobody writes into."""
        top = self.best.reward if self.top is None else self.top
        if self.unseen:
            parts = [arrays(reward, rows)[1:] for _, reward, rows in self.waiting[-self.unseen :]]
            xp, before = arrays(top)
            rewards, rows = (xp.cat(part) for part in zip(*parts, strict=True))
            top = tensor(xp.raised(before, rows, rewards))
        self.top, self.unseen = top, 0
        return top

    def settled(self) -> Best:
        """The best of all texts seen."""
        if self.waiting:
            tokens, reward, rows = (torch.cat(parts) for parts in zip(*self.waiting, strict=True))
            self.waiting, self.tokens, self.unseen = [], 0, 0
            self.best.see(tokens, reward, rows)
            self.top = self.best.reward
        return self.best


@dataclass(frozen=True)
class About:
    """What a run was given, for a reader: the names of `model` and `reward` (with its weights), `alpha`, None where the
    run finds it, the `seed`, the `budget` a sample, the `prompts`, one a row, and `more` options by name."""

    model: str = ""
    reward: str = ""
    alpha: float | None = None
    seed: int | None = None
    budget: str = ""
    prompts: list[str] | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Result:
    """What a run returns.

    `tokens` (B, L) and `rewards` (B,): the chain's last state where the method samples, the best text seen where it
    maximises. `best`: the best finished text seen, with its reward, either way. `texts`: the tokens decoded, where a
    decoder was given. `cost`: calls really computed a sample; `asked`: calls asked for, which the method declares.
    `seconds` in all, `parts` those inside the denoiser and the reward. `particles` are all copies with their weights,
    for methods that keep several a row. `mask` is the token that stands for noise, or None where the noise has none.
    `finished` is False for what was saved from a run that broke off. `show` is what says how tokens are shown: a model,
    a tokenizer, or a function from a token's id to its text. `log_likelihood` (B,) is the model's own, in nats, where
    it was asked for; `slots` are, of every row and every region with a few choices, the log-probabilities of these.
    `lengths` (B,) counts the tokens of answers in front of their end, where a model of texts made them. `about` says
    what the run was given; `alpha` (B,) and `chosen` are what a method chose for itself a row, as `auto` does; `begins`
    (B,) is the first position that could change."""

    tokens: Tensor
    rewards: Tensor
    best: Best
    cost: Cost
    asked: Cost
    trace: Trace
    sampler: Sampler
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)
    texts: list[str] | None = None
    particles: Particles | None = None
    mask: int | None = None
    finished: bool = True
    show: Any = None
    log_likelihood: Tensor | None = None
    lengths: Tensor | None = None
    slots: list[list[dict[str, float]]] | None = None
    about: About = field(default_factory=About)
    alpha: Tensor | None = None
    chosen: tuple[str, ...] | None = None
    begins: Tensor | None = None

    def __repr__(self) -> str:
        rows = "1 row" if len(self.tokens) == 1 else f"{len(self.tokens)} rows"
        lines = [
            f"{self.sampler}: {rows}, reward {float(self.rewards.mean()):.4f} "
            f"(best seen {float(self.best.reward.mean()):.4f})",
            f"a sample: {self.cost.nfe:.4g} NFE + {self.cost.reward_calls:.4g} reward calls, "
            f"depth {self.cost.depth:g}; {self.seconds:.2f} s in all",
        ]
        lines += self.warnings()
        for row, text in enumerate((self.texts or [])[:5]):
            lines.append(f"  [{float(self.rewards[row]):.3f}] {text}")
        return "\n".join(lines)

    def warnings(self, rows: Sequence[int] | None = None) -> list[str]:
        """What a reader of the results should know about rows for which the reward forbade texts (-inf); `rows` are
        what to call them, 0 .. B - 1 unless given."""
        names = range(len(self.tokens)) if rows is None else rows
        none = [names[row] for row in (self.rewards == -torch.inf).nonzero()[:, 0].tolist()]
        stuck = [names[row] for row in self.trace.stuck_rows()] if self.finished else []
        lines = []
        if none:
            lines.append(f"{name_rows(none)}: the reward forbade every text (-inf), so the text is one of these")
        if stuck:
            lines.append(f"{name_rows(stuck)}: some step found only forbidden candidates (-inf) and kept the state")
        return lines

    def to_jsonl(self, path: str | Path) -> None:
        """Writes one JSON object a row: its `row`, `text` (`tokens` where no decoder was given), `reward` and `best`
        reward seen (a number that is -inf is null, as of a forbidden text), and the cost `asked` for a sample."""
        rows = [finite({**row, "asked": vars(self.asked)}) for row in self._rows()]
        write_whole(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def to_pandas(self) -> Any:
        """A data frame with the columns of `to_jsonl`, the cost in three of them and -inf as it is. Raises
        `MissingExtra`, an `ImportError`, where pandas is not installed."""
        require("pandas", "data", "to_pandas", ", or write the rows with to_jsonl")
        return import_module("pandas").DataFrame(self._table())

    def to_dataset(self) -> Any:
        """A data set of `datasets` with the columns of `to_pandas`, one row a text. Raises `MissingExtra`, an
        `ImportError`, where it is not installed."""
        require("datasets", "data", "to_dataset", ", or write the rows with to_jsonl")
        return import_module("datasets").Dataset.from_list(self._table())

    def save_html(self, path: str | Path, show: Any = None, *, beside: Result | str | Path | None = None) -> None:
        """Writes one self-contained page: the steps and proposals of the watched rows under a slider, charts, texts.

        `show` stands in for the result's own; token ids are shown where there is neither. `beside` is another run, or
        the file that one was saved in (a page, its JSON, JSON lines), to be shown side by side with this one."""
        # a convenience that the report offers, looked up when asked for: nothing here stands on it
        text = import_module("iterref.report").page(self, show, beside=beside)
        write_whole(Path(path), text)

    def _repr_html_(self) -> str:
        """The page in a frame, and the first texts as a table, which a notebook shows."""
        return str(import_module("iterref.report").notebook(self))

    def _table(self) -> list[dict[str, Any]]:
        asked = {f"asked_{name}": value for name, value in vars(self.asked).items()}
        return [{**row, **asked} for row in self._rows()]

    def _rows(self) -> list[dict[str, Any]]:
        rewards, best = self.rewards.tolist(), self.best.reward.tolist()
        name, values = ("tokens", self.tokens.tolist()) if self.texts is None else ("text", self.texts)
        rows = [
            {"row": row, name: value, "reward": rewards[row], "best": best[row]} for row, value in enumerate(values)
        ]
        for name, column in (("log_likelihood", self.log_likelihood), ("length", self.lengths)):
            for row, value in zip(rows, [] if column is None else column.tolist(), strict=column is not None):
                row[name] = value
        for row, slots in zip(rows, self.slots or (), strict=False):
            row["slots"] = slots
        return rows


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `partial` is what the run had reached, a `Result`."""

    partial: Any = None
