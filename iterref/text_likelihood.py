"""How likely a model finds texts that exist: references, another model's answers, what a user wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from iterref import likelihood
from iterref.arguments import checked_model, checked_options, checked_prompts, expect_template
from iterref.drafts import TextModel
from iterref.fence import fenced
from iterref.generation import text_model, unrewarded
from iterref.lengths import in_front
from iterref.numbers import whole_number
from iterref.run import Run


def log_likelihood(
    model: TextModel | str | Path | None,
    texts: Sequence[str],
    *,
    prompts: Sequence[str] | None = None,
    evaluations: int = likelihood.EVALUATIONS,
    max_rows: int | None = None,
) -> Tensor:
    """log p(text | prompt) of B texts under the model -> (B,) float64, in nats, as `Result.log_likelihood` has it.

    `prompts` may be left out for models that write without one. With more `evaluations` of the network a text the
    estimate is closer to the chain rule (`iterref.likelihood`); `max_rows` bounds the sequences of one call. It counts
    the text's end and the filler behind it, where the model writes these: not of a masked language model. Raises
    `ValueError` (`TypeError` for a wrong type) that names the row, as for a text that is longer than the canvas."""
    texts, model = checked_prompts(texts, "text"), text_model(checked_model(model))
    prompts = [""] * len(texts) if prompts is None else checked_prompts(prompts)
    if len(prompts) != len(texts):
        raise ValueError(f"there are {len(texts)} texts for {len(prompts)} prompts: give one a prompt")
    evaluations = whole_number("evaluations", evaluations, "pass how many a text")
    if evaluations < 1:
        raise ValueError(f"a text is judged by at least 1 evaluation, got evaluations={evaluations}")
    options = checked_options(max_rows=max_rows)
    expect_template(prompts, model)
    problem = unrewarded(model, prompts, **options)
    likelihood.expect_known(problem.denoiser)
    tokens = problem.finished(model.encode(texts))
    if getattr(model, "fixed_length", False):  # what fills the canvas up is no part of the text
        problem = replace(problem, canvas=tokens, free=in_front(model, tokens, problem.may_change))
    with fenced(tokens.device), torch.inference_mode():
        found = likelihood.log_likelihood(Run(problem), tokens, evaluations)
    return found.clone()
