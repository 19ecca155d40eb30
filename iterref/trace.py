"""The trace: what happened at every step of a run, kept small enough to be always on.

    step k:  time t, share of accepted decisions, tokens changed, span, rows stuck, rewards      one number a row

The states of a few watched rows are kept whole, to be shown step by step, and with them everything that competed to be
their next state. What a run does not watch it does not pay for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file
from safetensors.torch import save as packed
from torch import Tensor

from iterref.budget import Cost
from iterref.decision import ABSENT, Decision
from iterref.files import write_whole

if TYPE_CHECKING:
    from iterref.samplers.base import Info, State

SERIES = ("t", "depth", "nfe", "reward_calls", "accepted", "changed", "span", "stuck", "ess", "reward", "best")


class Round(NamedTuple):
    """What competed in one decision for the watched rows: `tokens` (N, W, L) int32, the clean samples, with their
    `rewards` (N, W), the `verdicts` (N, W) int8 of `iterref.decision`, the `chances` (N, W) that a test gave,
    and the rewards `before` (N, W) of the states that they competed with; NaN where there is none."""

    tokens: Tensor
    rewards: Tensor
    verdicts: Tensor
    chances: Tensor
    before: Tensor


class Watched(NamedTuple):
    """A decision of the watched rows (W,), and which of them had no part in it, (W,) bool, if any had none."""

    decision: Decision
    absent: Tensor | None


@dataclass
class Trace:
    """A growing record; `settle` writes what was noted, and `table` turns it into tensors, one entry a step.

    `t` (K,), `nfe` and `reward_calls` (K,) asked for so far a sample, `depth` (K,);
    `accepted`, `changed`, `span`, `stuck`, `ess`, `reward` and `best` (K, B), NaN where a step decided, renoised or
    scored nothing. `watched` (K, W, L) are the noisy states of the rows `watch`, `clean` (K, W, L) the clean samples
    that came with them. `competed` lists, a step, the decisions of the watched rows, `Watched` until `rounds` is asked.
    """

    watch: tuple[int, ...] = ()
    steps: list[dict[str, Tensor]] = field(default_factory=list)
    competed: list[list[Any]] = field(default_factory=list)
    noted: list[dict[str, Any]] = field(default_factory=list)

    def add(self, state: State, info: Info, best: Tensor, cost: Cost, batch: int) -> None:
        """Takes note of one step, `best` (B,) not to be written into. Nothing is made of it before `settle`, so that a
        step waits neither for a copy nor for a dozen small operations."""
        x_0, reward = state.clean()
        entry = {
            "t": state.t, "depth": cost.depth, "nfe": cost.nfe, "reward_calls": cost.reward_calls,
            "accepted": info.accepted, "changed": info.changed, "span": info.span, "stuck": info.stuck, "ess": info.ess,
            "reward": None if reward is None else reward[:batch], "best": best,
        }  # fmt: skip
        if self.watch:
            index = list(self.watch)
            entry["watched"], entry["clean"] = state.x_t[index], x_0[index]
            every = index == list(range(batch))
            self.competed.append([_watched(decision, index, every) for decision in info.decisions])
        self.noted.append(entry)

    @property
    def rounds(self) -> list[list[Round]]:
        """The decisions of every step, N x W x L tokens of four bytes each, made when somebody asks: few do."""
        for step in self.competed:
            step[:] = [_round(*one) if isinstance(one, Watched) else one for one in step]
        return self.competed

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"competed": self.rounds}

    def followed(self, later: Trace, spent: Cost) -> Trace:
        """This trace and behind it that of a run that went on when so much had been asked for a sample."""
        more = {"nfe": spent.nfe, "reward_calls": spent.reward_calls, "depth": spent.depth}
        steps = [{**step, **{name: step[name] + cost for name, cost in more.items()}} for step in later.steps]
        return Trace(self.watch, [*self.steps, *steps], [*self.competed, *later.competed])

    def settle(self) -> None:
        """Brings everything to the host, as ordinary tensors, numbers of rows (B,) float64, each series at once."""
        if not self.noted:
            return
        columns, nothing = dict[str, Tensor](), torch.full_like(self.noted[0]["best"], torch.nan)
        for name in self.noted[0]:
            values = [nothing if noted[name] is None else noted[name] for noted in self.noted]
            if name in SERIES[:4]:
                columns[name] = torch.tensor(values, dtype=torch.float64)
                continue
            if name in SERIES:  # a number of all rows, or one a row
                values = [torch.as_tensor(value).to(nothing).expand_as(nothing) for value in values]
            columns[name] = _ordinary(torch.stack(values))
        self.steps += [dict(zip(columns, step, strict=True)) for step in zip(*columns.values(), strict=True)]
        self.noted = []
        if nothing.is_cuda:  # where decisions would take room
            self.competed = self.rounds

    def table(self) -> dict[str, Tensor]:
        """Every series as one tensor, the first axis the steps."""
        if not self.steps:
            return {}
        return {name: torch.stack([step[name] for step in self.steps]) for name in self.steps[0]}

    def acceptance(self) -> float:
        """Mean share of accepted decisions over all steps that decided something but a first sample; or NaN."""
        decided = [step["accepted"] for step in self.steps if not step["changed"].isnan().all()]
        return float(torch.stack(decided).nanmean()) if decided else float("nan")

    def stuck_rows(self) -> list[int]:
        """Rows in which some step found only forbidden candidates (reward -inf) and kept the state."""
        if not self.steps:
            return []
        stuck = torch.stack([step["stuck"].nan_to_num(0.0) for step in self.steps]).amax(0)
        return [int(row) for row in stuck.nonzero()[:, 0]]

    def summary(self) -> str:
        """One line a step: time, NFE so far, acceptance, tokens changed, mean reward."""
        lines = ["step      t   NFE  accepted  changed    reward      best"]
        for k, step in enumerate(self.steps):
            means = [float(step[name].nanmean()) for name in ("accepted", "changed", "reward", "best")]
            shown = ["      -" if value != value else f"{value:7.3f}" for value in means]
            head = f"{k:4d} {float(step['t']):6.3f} {float(step['nfe']):5.0f}"
            lines.append(f"{head}   {shown[0]}  {shown[1]}   {shown[2]}   {shown[3]}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Writes the table and the rounds as safetensors: the parts of all candidates, one after the other, and
        `round_step` and `round_size` say which step a round belongs to and how many it has."""
        meta = {"watch": ",".join(map(str, self.watch))}
        file, rounds = self.table(), [(k, one) for k, step in enumerate(self.rounds) for one in step]
        if rounds:
            file |= {name: torch.cat([getattr(one, name) for _, one in rounds]) for name in Round._fields}
            file["round_step"] = torch.tensor([k for k, _ in rounds])
            file["round_size"] = torch.tensor([len(one.rewards) for _, one in rounds])
        write_whole(Path(path), packed({name: value.contiguous() for name, value in file.items()}, meta))

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Reads what `save` wrote; raises `ValueError` for a file that is no trace."""
        from safetensors import SafetensorError, safe_open

        try:
            table = load_file(str(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is no trace ({error}): give a file that a trace's save wrote") from None
        wanted = (*SERIES, *(Round._fields if "round_step" in table else ()))
        missing = [name for name in wanted if name not in table]
        if missing:
            raise ValueError(f"{path} is no trace: it has no series called {missing[0]!r}")
        with safe_open(str(path), framework="pt") as file:
            watch = (file.metadata() or {}).get("watch", "")
        rows, count = tuple(int(row) for row in watch.split(",") if row), len(table["t"])
        rounds: list[list[Round]] = [[] for _ in range(count if rows else 0)]
        if "round_step" in table:
            at, sizes = table.pop("round_step").tolist(), table.pop("round_size").tolist()
            parts = (table.pop(name).split(sizes) for name in Round._fields)
            for k, *one in zip(at, *parts, strict=True):
                rounds[k].append(Round(*one))
        steps = [{name: value[k] for name, value in table.items()} for k in range(count)]
        return cls(rows, steps, rounds)


def _ordinary(value: Tensor) -> Tensor:
    """A tensor on the host that autograd and pickle know, made of one of inference mode."""
    if value.device.type != "cpu":
        return value.cpu()
    return value.clone() if value.is_inference() else value


def _watched(decision: Decision, watch: list[int], every: bool) -> Watched:
    """A decision of the watched rows (W,), which may be `every` row in order."""
    if decision.rows is None:
        return Watched(decision if every else decision.of(watch), None)
    own = decision.rows[:, None] == torch.tensor(watch, device=decision.rows.device)
    return Watched(decision.of(own.long().argmax(0)), ~own.any(0))


@torch.inference_mode()
def _round(of: Decision, absent: Tensor | None) -> Round:
    """What competed; rows that had no part in it are marked so."""
    verdicts = of.verdict() if absent is None else of.verdict().masked_fill(absent, ABSENT)
    tokens, rewards = of.tokens().to(torch.int32), of.reward.detach().double()
    with torch.inference_mode(False):
        return Round(*map(_ordinary, (tokens, rewards, verdicts, of.chances(), of.rewards_before())))
