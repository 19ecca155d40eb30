"""Bidirectional: a language model of `transformers` in which every position sees every other, as masked posteriors.

    log p(x_0^i | x_t)  =  log-softmax(head(states)_{i - shift})     at the open positions alone
    shift = 0: a position's logits stand at the position;   shift = 1: one before, as in models made of causal ones

The head of whatever class runs on the states of the open positions only. Padding is hidden from all positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iterref import hub
from iterref.models.device_map import entrance, tokens_of

PROBE = 8  # tokens by which a class is tried


class Bidirectional:
    """A network of a `transformers` class with a head: token ids in, logits of chosen positions out. `causal` says that
    the class hides later positions unless it is given the whole mask (LLaMA, Qwen), `shift` how many positions before
    its own a token's logits stand (the first position's stand at itself). `most` is the number of positions that it may
    be asked for, if bounded."""

    def __init__(self, model: nn.Module, causal: bool, shift: int = 0) -> None:
        self.model, self.causal, self.shift = model, causal, shift
        self.stack: nn.Module = getattr(model, str(model.base_model_prefix))
        if not hasattr(tokens_of(model), "weight"):
            raise ValueError(f"a {type(model).__name__} has no table of tokens: it is not read")
        config: Any = getattr(model, "config", None)
        rope = getattr(config, "rope_parameters", None) or {}
        # by which rules the rotary angles are made, of each kind of layers too
        rotary = {one.get("rope_type") for one in (rope, *rope.values()) if isinstance(one, Mapping)}
        self.feels_padding = "longrope" in rotary  # other angles for a call with a long text
        # Further on, the angles of this rule depend on the longest text so far, in the class as well.
        self.most = int(config.max_position_embeddings) if "dynamic" in rotary else None
        self._chosen: tuple[Tensor, Tensor] | None = None
        self.stack.register_forward_hook(self._pick)
        self.ranks = int(getattr(model, "_tp_size", None) or 1)  # which compute it together
        self.vocab = len(tokens_of(model).weight)

    @property
    def device(self) -> torch.device:
        """Where token ids are given and logits come back."""
        return entrance(self.model)

    def __call__(self, ids: Tensor, seen: Tensor | None, where: Tensor) -> Tensor:
        """(R, T) token ids, (R, T) bool (False: padding; None: there is none), (R, T) bool -> (M, V) float32 logits."""
        row, place = where.nonzero(as_tuple=True)
        self._chosen = row, (place - self.shift).clamp_min(0)
        options: dict[str, Any] = {"use_cache": False} if self.causal else {}
        try:
            logits: Tensor = self.model(input_ids=ids, attention_mask=self._mask(ids, seen), **options).logits
        finally:
            self._chosen = None
        return logits[0].float()

    @torch.no_grad()
    def probe(self, pad: int, most: int | None) -> None:
        """Finds out whether hidden padding changes what a class says, as where it mixes neighbours or frequencies
        (ConvBERT, FNet, Nystromformer): with `feels_padding` the caller has to ask one length a call. Raises
        `ValueError` for a class that has no kernel for its precision, or whose head is not one of single positions."""
        size = min(PROBE, (most or 2 * PROBE) // 2)
        ids = torch.arange(size, device=self.device)[None] * 7 % self.vocab
        ids = torch.where(ids == pad, (pad + 1) % self.vocab, ids)
        where = torch.ones_like(ids, dtype=torch.bool)
        kind, dtype = type(self.model).__name__, next(self.model.parameters()).dtype
        try:
            alone, whole = self(ids, None, where), self.model(input_ids=ids).logits[0].float()
        except (RuntimeError, NotImplementedError) as error:
            told = f"a {kind} does not run in {str(dtype).removeprefix('torch.')} here ({hub.first_line(error)})"
            raise ValueError(f"{told}: load it with another dtype=, as 'float32', or on another device=") from None
        bound = (1e-4 if dtype == torch.float32 else 3e-2) * float(alone.abs().max())
        if alone.shape != whole.shape or float((alone - whole).abs().max()) > bound:
            raise ValueError(f"the head of a {kind} reads more than the state of a position: it is not read")
        seen = torch.cat([where, torch.zeros_like(where)], 1)
        beside = self(torch.cat([ids, torch.full_like(ids, pad)], 1), seen, seen)
        self.feels_padding |= float((alone - beside).abs().max()) > bound

    def compile(self, *, dynamic: bool, mode: str | None) -> None:
        self.stack.compile(dynamic=dynamic, mode=mode)

    def _mask(self, ids: Tensor, seen: Tensor | None) -> Tensor | None:
        """What the class wants to be given so that all positions see all that are no padding."""
        if not self.causal:
            return None if seen is None else seen.long()
        seen = torch.ones_like(ids[:1], dtype=torch.bool) if seen is None else seen
        return seen[:, None, None].expand(-1, 1, ids.shape[1], -1)

    def _pick(self, stack: nn.Module, given: Any, answer: Any) -> Any:
        """The stack's answer with the states of the chosen positions alone, as one row (1, M, width)."""
        if self._chosen is not None:
            states = answer.last_hidden_state
            row, place = (index.to(states.device) for index in self._chosen)  # the last layers may be elsewhere
            answer.last_hidden_state = states[row, place][None]
        return answer
