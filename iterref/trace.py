"""The trace: what happened at every step of a run, kept small enough to be always on.

    step k:  time t, share of accepted decisions, tokens changed, rows stuck, rewards      one number a row

The states of a few watched rows are kept whole, to be shown step by step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from iterref.kernels import Info, State

SERIES = ("t", "depth", "denoiser", "accepted", "changed", "stuck", "ess", "reward", "best")


@dataclass
class Trace:
    """A growing record; `table` turns it into tensors, one entry a step.

    `t` (K,), `denoiser` (K,) rows asked so far a sample, `depth` (K,); `accepted`, `changed`, `stuck`, `ess`, `reward`
    and `best` (K, B), NaN where a step decided or scored nothing. `watched` (K, W, L) are the noisy states of the rows
    `watch`, and `guesses` (K, W, L) the clean guesses that came with them.
    """

    watch: tuple[int, ...] = ()
    steps: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, state: State, info: Info, best: Tensor, denoiser: float, depth: float, batch: int) -> None:
        """Takes note of one step. What is on a device stays there until `settle`, so that no step waits for a copy."""
        nothing = torch.full((batch,), torch.nan, dtype=torch.float64, device=best.device)

        def row(value: Tensor | None) -> Tensor:
            return nothing if value is None else value.detach().double()

        entry = {
            "t": torch.tensor(state.t, dtype=torch.float64),
            "depth": torch.tensor(depth, dtype=torch.float64),
            "denoiser": torch.tensor(denoiser, dtype=torch.float64),
            "accepted": row(info.accepted),
            "changed": row(info.changed),
            "stuck": row(info.stuck),
            "ess": row(info.ess),
            "reward": row(state.reward),
            "best": best.detach().clone(),
        }
        if self.watch:
            index = list(self.watch)
            entry["watched"] = state.x_t[index]
            entry["guesses"] = (state.x_t if state.x_0 is None else state.x_0)[index]
        self.steps.append(entry)

    def settle(self) -> None:
        """Brings everything to the host."""
        self.steps = [{name: value.cpu() for name, value in step.items()} for step in self.steps]

    def table(self) -> dict[str, Tensor]:
        """Every series as one tensor, the first axis the steps."""
        if not self.steps:
            return {}
        return {name: torch.stack([step[name] for step in self.steps]) for name in self.steps[0]}

    def acceptance(self) -> float:
        """Mean share of accepted decisions over all steps that decided something, first guesses left out; or NaN."""
        decided = [step["accepted"] for step in self.steps if not step["changed"].isnan().all()]
        return float(torch.stack(decided).nanmean()) if decided else float("nan")

    def stuck_rows(self) -> list[int]:
        """Rows in which some step found only forbidden candidates (reward -inf) and kept the state."""
        if not self.steps:
            return []
        stuck = torch.stack([step["stuck"].nan_to_num(0.0) for step in self.steps]).amax(0)
        return [int(row) for row in stuck.nonzero()[:, 0]]

    def summary(self) -> str:
        """One line a step: time, denoiser rows so far, acceptance, tokens changed, mean reward."""
        lines = ["step      t  rows  accepted  changed    reward      best"]
        for k, step in enumerate(self.steps):
            means = [float(step[name].nanmean()) for name in ("accepted", "changed", "reward", "best")]
            shown = ["      -" if value != value else f"{value:7.3f}" for value in means]
            head = f"{k:4d} {float(step['t']):6.3f} {float(step['denoiser']):5.0f}"
            lines.append(f"{head}   {shown[0]}  {shown[1]}   {shown[2]}   {shown[3]}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Writes the table as safetensors."""
        meta = {"watch": ",".join(map(str, self.watch))}
        save_file({name: value.contiguous() for name, value in self.table().items()}, str(path), metadata=meta)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Reads what `save` wrote; raises `ValueError` for a file that is no trace."""
        from safetensors import safe_open

        table = load_file(str(path))
        missing = [name for name in SERIES if name not in table]
        if missing:
            raise ValueError(f"{path} is no trace: it has no series called {missing[0]!r}")
        with safe_open(str(path), framework="pt") as file:
            watch = (file.metadata() or {}).get("watch", "")
        steps = [{name: value[k] for name, value in table.items()} for k in range(len(table["t"]))]
        return cls(tuple(int(row) for row in watch.split(",") if row), steps)
