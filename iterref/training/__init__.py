"""Training: a small trainer of masked diffusion models of summaries or of texts, and the masked loss.

train(TrainConfig(train=("mine.txt",), out="my-model"))          then iterref.generate("my-model", ...)
"""

from iterref.training.config import TrainConfig
from iterref.training.loop import keep_freed_memory, train
from iterref.training.trainer import Diverged, masked_loss, spread_times

__all__ = ["Diverged", "TrainConfig", "keep_freed_memory", "masked_loss", "spread_times", "train"]
