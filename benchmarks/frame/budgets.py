"""Accounts: what equal budgets are, in multiples k of one plain run of S denoiser rows.

    denoiser    k S denoiser rows, and reward rows up to 16 times as many: rewards are cheap
    total       k S rows of both kinds together: a reward row is as dear as a denoiser row
    moves       no budget: methods as they stand, to see what more refinement moves bring
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.frame.ledger import Row
from iterref.budget import Budget

BUDGETS = (1, 2, 4, 8, 16, 32)
EQUAL = ("denoiser", "total")
ACCOUNTS = (*EQUAL, "moves")
REWARD_ROWS = 16  # reward rows a denoiser row where rewards are cheap
# Copies of all rows that run side by side at the most: a run is made in parts, which changes no sample of it.
SIDE_BY_SIDE = 2048


def budget(account: str, rows: int) -> Budget | None:
    """The budget of `rows` = k S rows by an account."""
    if account == "moves":
        return None
    return Budget(total=rows) if account == "total" else Budget(nfe=rows, reward_calls=REWARD_ROWS * rows)


def as_json(rows: Sequence[Row]) -> list[Row]:
    """The runs that were made, one object each; what a method cannot say is null."""
    return [{k: v for k, v in row.items() if k != "note"} for row in rows if row["note"] is None]
