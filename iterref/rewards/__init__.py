"""Rewards: the protocol, its checks and memory (base), functions of texts (text), and one reward a file."""

from __future__ import annotations

from iterref.rewards.base import Composable, Memory, Remembered, Reward, RewardError, Weighted, checked
from iterref.rewards.consensus import Consensus
from iterref.rewards.rouge import Rouge, RougeAgainst, report_rouge, report_rouge_rows, rouge_l, rouge_n
from iterref.rewards.text import TextReward

__all__ = [
    "Composable",
    "Consensus",
    "Memory",
    "Remembered",
    "Reward",
    "RewardError",
    "Rouge",
    "RougeAgainst",
    "TextReward",
    "Weighted",
    "checked",
    "report_rouge",
    "report_rouge_rows",
    "rouge_l",
    "rouge_n",
]
