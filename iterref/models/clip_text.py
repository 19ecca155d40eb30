"""CLIP texts: prompts as image models read them, a sequence of states and one embedding, once a prompt.

    tokens, padded to the encoder's length  ->  the states before its last layer (T, D), the projected embedding (P,)

Nothing hides the padding, in training neither. A prompt that is too long is refused; the published pipelines cut it.
Source: Radford et al. 2021, arXiv:2103.00020; by the classes of `transformers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iterref.fence import fenced
from iterref.hub import first_line, quiet
from iterref.models import pretrained
from iterref.models.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class Read:
    """Prompts that were read: `states` (U, T, D) and `pooled` (U, P) of U different ones, and `which` (B,) of them each
    row has, None where all rows have the first."""

    states: Tensor
    pooled: Tensor
    which: Tensor | None

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) rows -> (R, T, D), (R, P)."""
        at = torch.zeros_like(rows) if self.which is None else self.which[rows]
        return self.states[at], self.pooled[at]


class Reader:
    """CLIP's tokenizer and text encoder; a prompt has `room` for tokens."""

    def __init__(self, tokenizer: Any, encoder: Any) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder
        self.room = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)

    @classmethod
    def load(cls, words: Path, checkpoint: Checkpoint) -> Reader:
        """The tokenizer in a folder `words`, and the text encoder of a checkpoint. Raises `FileNotFoundError` where
        there is no tokenizer, and `ValueError` for parts that cannot be read or do not belong together."""
        import transformers

        if not any((words / file).is_file() for file in ("tokenizer.json", "vocab.json")):
            raise FileNotFoundError(f"{words} has no vocab.json and no tokenizer.json: get the pipeline's whole folder")
        fast: Any = getattr(transformers, "CLIPTokenizerFast")  # noqa: B009  an alias that version 5 makes at run time
        with quiet():
            try:
                tokenizer = fast.from_pretrained(words, local_files_only=True)
            except Exception as error:  # the library's parsers raise bare Exceptions
                raise ValueError(f"{words} is no tokenizer of CLIP's ({first_line(error)}): get it again") from None
        known = checkpoint.size("vocab_size")
        if len(tokenizer) > known:
            told = f"the tokenizer in {words} has {len(tokenizer)} tokens"
            raise ValueError(f"{told} and {checkpoint.name} knows {known}: they belong to different models")
        checkpoint.expect_room()
        kind: Any = transformers.CLIPTextModelWithProjection
        config = pretrained.settings(kind.config_class, checkpoint)
        encoder = pretrained.network(kind, config, checkpoint, spare=("position_ids",))
        return cls(tokenizer, encoder)

    def __call__(self, prompts: Sequence[str]) -> Read:
        """B prompts, each different one read once. Raises `ValueError` for one that is too long, naming the row."""
        different = list(dict.fromkeys(prompts))
        ids = self.tokenizer(different, padding="max_length", max_length=self.room, verbose=False)["input_ids"]
        for prompt, one in zip(different, ids, strict=True):
            if len(one) > self.room:
                row = list(prompts).index(prompt)
                raise ValueError(f"prompt {row} has {len(one)} tokens and the model reads {self.room}: shorten it")
        device = self.encoder.device
        with fenced(device):
            answer = self.encoder(input_ids=torch.tensor(ids, device=device), output_hidden_states=True)
        number = {prompt: at for at, prompt in enumerate(different)}
        which = torch.tensor([number[prompt] for prompt in prompts], device=device)
        return Read(answer.hidden_states[-2], answer.text_embeds, which)
