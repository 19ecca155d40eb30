"""Accounts: what equal budgets are, in multiples k of one plain run of S NFE.

    nfe      k S NFE, and up to 16 times as many reward calls: rewards are cheap
    total    k S of both together: a reward call is as expensive as an NFE
    moves    no budget: methods as they stand, to see what more refinement moves bring
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.frame.ledger import Row
from iterref.budget import Budget

BUDGETS = (1, 2, 4, 8, 16, 32)
EQUAL = ("nfe", "total")
ACCOUNTS = (*EQUAL, "moves")
REWARD_CALLS = 16  # per NFE where rewards are cheap
# Copies of all samples that run side by side at the most: a run is made in parts, which changes no sample of it.
SIDE_BY_SIDE = 2048


def budget(account: str, nfe: int) -> Budget | None:
    """The budget of `nfe` = k S by an account."""
    if account == "moves":
        return None
    return Budget(total=nfe) if account == "total" else Budget(nfe=nfe, reward_calls=REWARD_CALLS * nfe)


def as_json(rows: Sequence[Row]) -> list[Row]:
    """The runs that were made, one object each; what a method cannot say is null."""
    return [{k: v for k, v in row.items() if k != "note"} for row in rows if row["note"] is None]
