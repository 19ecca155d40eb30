"""Training: a small trainer of masked diffusion models of summaries or of texts, and the masked and uniform losses.

    train(TrainConfig(train=("mine.txt",), out="my-model"))          then iterref.generate("my-model", ...)
"""

from iterref.training.config import TrainConfig
from iterref.training.data import Pairs, read_pairs
from iterref.training.loop import train
from iterref.training.losses import masked_loss, spread_times, token_weight, uniform_loss
from iterref.training.surroundings import keep_freed_memory
from iterref.training.trainer import Diverged, Trainer

__all__ = [
    "Diverged", "Pairs", "TrainConfig", "Trainer", "keep_freed_memory", "masked_loss", "read_pairs", "spread_times",
    "token_weight", "train", "uniform_loss",
]  # fmt: skip
