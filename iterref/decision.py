"""Decision: which candidates competed for a move, which one was put to the test, and how the test ended.

    verdict   -1 nothing was decided,   0 not put to the test,   1 refused,   2 accepted      one a candidate and chain
              -2 the row had no part in it

It holds on to tensors that a move has made anyway; candidates and verdicts are made only for the chains asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

ABSENT, UNDECIDED, OTHER, REFUSED, ACCEPTED = -2, -1, 0, 1, 2


@dataclass(frozen=True)
class Decision:
    """One decision of B chains among N candidates: clean samples `x_0` (N, B, L) long with their `reward` (N, B), the
    `choice` (B,) long that was put to the test, whether it was `accepted` (B,) bool, and the `chance` (B,) that it had,
    None where no test was made.

    Of a move that decides part by part, a candidate is `x_0` inside of `part` (B, L) bool and `now` (B, L) outside.
    `in_turn` says that candidates are tested one after the other up to the first that passes, each by a `chance`
    (B, N) of its own; without a `choice` nothing is decided. `before` (B,) is the reward of the state that they compete
    with, where there is one. `rows` (B,) are those that the chains belong to, 0 .. B - 1 unless given."""

    x_0: Tensor
    reward: Tensor
    choice: Tensor | None = None
    accepted: Tensor | None = None
    chance: Tensor | None = None
    before: Tensor | None = None
    part: Tensor | None = None
    now: Tensor | None = None
    in_turn: bool = False
    rows: Tensor | None = None

    def of(self, chains: Tensor | list[int] | slice) -> Decision:
        """The same decision of C of the chains, by their places (C,); a slice copies nothing."""
        names = ("choice", "accepted", "chance", "before", "part", "now")
        some: dict[str, Any] = {name: x[chains] for name in names if (x := getattr(self, name)) is not None}
        return replace(self, x_0=self.x_0[:, chains], reward=self.reward[:, chains], **some)

    def tokens(self) -> Tensor:
        """The candidates, (N, B, L) long."""
        if self.part is None or self.now is None:
            return self.x_0
        return torch.where(self.part, self.x_0, self.now)

    def verdict(self) -> Tensor:
        """What became of every candidate, (N, B) int8."""
        if self.choice is None or self.accepted is None:
            return torch.full_like(self.reward, UNDECIDED, dtype=torch.int8)
        place = torch.arange(len(self.reward), device=self.reward.device)[:, None]
        tested = (place <= self.choice) | ~self.accepted if self.in_turn else place == self.choice
        passed = (place == self.choice) & self.accepted
        return tested.to(torch.int8) + passed.to(torch.int8)

    def rewards_before(self) -> Tensor:
        """The reward of the state that each candidate competed with, (N, B) float64; NaN without one."""
        nothing = torch.full_like(self.reward, torch.nan, dtype=torch.float64)
        return nothing if self.before is None else nothing.copy_(self.before.expand_as(nothing))

    def chances(self) -> Tensor:
        """The probability with which each candidate that was tested was accepted, (N, B) float64; NaN for others."""
        if self.chance is None:
            return torch.full_like(self.reward, torch.nan, dtype=torch.float64)
        chance = self.chance.T if self.in_turn else self.chance
        return torch.where(self.verdict() > OTHER, chance, torch.nan).double()
