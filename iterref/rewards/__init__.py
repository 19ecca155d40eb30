"""Rewards: the protocol and its checks (base), memory, the algebra, functions of texts (text), one reward a file."""

from typing import TYPE_CHECKING

from iterref import lazy

if TYPE_CHECKING:
    from iterref.rewards.algebra import Combined, Composable, Condition, TextCombined, TextComposable, checked, weighted
    from iterref.rewards.base import Reward, RewardError
    from iterref.rewards.calibrate import Calibration, calibrate_alpha
    from iterref.rewards.classifier import Classifier
    from iterref.rewards.consensus import Consensus
    from iterref.rewards.image import ImageClassifier, ImageText
    from iterref.rewards.judge import Judge
    from iterref.rewards.length import Length
    from iterref.rewards.lexical import Lexical
    from iterref.rewards.likelihood import SelfLikelihood
    from iterref.rewards.math_answer import MathAnswer, MathAnswerAgainst
    from iterref.rewards.memory import Memory, Remembered
    from iterref.rewards.partial import with_partial
    from iterref.rewards.perplexity import Perplexity
    from iterref.rewards.process_reward import ProcessReward
    from iterref.rewards.rouge import Rouge, RougeAgainst, report_rouge, report_rouge_rows
    from iterref.rewards.served import Served
    from iterref.rewards.similarity import Similarity
    from iterref.rewards.text import TextReward
    from iterref.rewards.threaded import Threaded
    from iterref.rewards.unit_tests import UnitTests, Verdict

__all__ = [
    "Calibration", "Classifier", "Combined", "Composable", "Condition", "Consensus", "ImageClassifier", "ImageText",
    "Judge", "Length", "Lexical", "MathAnswer", "MathAnswerAgainst", "Memory", "Perplexity", "ProcessReward",
    "Remembered", "Reward", "RewardError", "Rouge", "RougeAgainst", "SelfLikelihood", "Served", "Similarity",
    "TextCombined", "TextComposable", "TextReward", "Threaded", "UnitTests", "Verdict", "calibrate_alpha", "checked",
    "report_rouge", "report_rouge_rows", "weighted", "with_partial",
]  # fmt: skip

lazy.attach(__name__)
