"""Masked language models in plain `transformers` classes, as masked diffusion models of an answer.

    log p(x_0^i | x_t) = log-softmax of the head's logits at the masked positions, without the mask token

Two kinds: encoders that were trained to fill in (BERT, RoBERTa, ModernBERT: any `...ForMaskedLM`), and decoder classes
whose weights were trained on with full attention (Qwen2, Qwen3, LLaMA; "a2d-" and "andi-" in front of the type). A
decoder whose tokenizer has no mask was never trained to fill in, and is refused.

Input: the chat template's text and the answer where there is a template, else [CLS] prompt answer [SEP]. A plain
encoder knows no ends within a text: a text keeps its number of tokens, and what fills a canvas up is hidden. It was
trained with 15 % of the tokens masked and guesses where most are (Wang and Cho 2019, arXiv:1902.04094).

Compared with ZHZisZZ/dllm at 6e756132 and 13ba3727: tests/models/test_masked_lm.py says how close.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from iterref.models import pretrained
from iterref.models.bidirectional import Bidirectional
from iterref.models.checkpoint import Checkpoint
from iterref.models.family import Family
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel, answers, roles

FAMILY = Family(
    title="masked language models of transformers",
    reads=("*formaskedlm", "qwen2", "qwen3", "llama", "a2d-*", "andi-*"),
    recognises="recognised",
    spread=True,
)
DECODERS = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
# Nothing that fills in looks at these: other heads of a checkpoint that has several.
SPARE = ("pooler", "position_ids", "cls.seq_relationship", "sop_classifier", "classifier.", "qa_outputs")
HEADS = ("formaskedlm", "forpretraining", "lmheadmodel")
LENGTH = 64


def decoder(model_type: str) -> str | None:
    """The class of a decoder that may have been trained on with full attention, None for another type."""
    return DECODERS.get(model_type.lower().removeprefix("a2d-").removeprefix("andi-"))


def recognised(config: Mapping[str, Any]) -> bool:
    """Whether config.json is one of a model that fills in: an encoder's class with such a head, also beside others, or
    a decoder under the name of a conversion. A decoder's class of any other name may hide positions: it is no guess."""
    kind, named = str(config.get("model_type")), [str(one) for one in config.get("architectures") or []]
    fills = _class(kind)
    if fills is not None and (not named or any(one.lower().endswith(HEADS) for one in named)):
        return True
    plain = decoder(kind)
    if plain is None:
        return any(one.lower().endswith("formaskedlm") for one in named)
    own = {plain, plain.replace("ForCausalLM", "Model")}
    converted = kind.lower().startswith(("a2d-", "andi-"))
    if config.get("block_size") or config.get("bd_size"):
        return False
    return converted or (set(named) <= own and not config.get("auto_map"))


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int | None = None, chat: bool | None = None
) -> PromptedModel:
    """The text model of a masked language model; `length` positions of an answer, those that config.json calls
    `canvas_length` or else 64 unless given. `chat` False leaves a chat template unused. Raises `ValueError` for a
    tokenizer without a mask, or one that does not belong to the model."""
    import transformers

    kind = str(checkpoint.config.get("model_type"))
    length = int(checkpoint.config.get("canvas_length") or LENGTH) if length is None else length
    causal = decoder(kind) is not None
    if codec is None or codec.mask is None and checkpoint.config.get("mask_token_id") is None:
        how = "it is an autoregressive model, none that fills in: load another" if causal else "name its tokenizer="
        raise ValueError(f"the tokenizer of {checkpoint.name} has no mask token: {how}")
    named = decoder(kind) or _class(kind)
    if named is None:
        raise ValueError(f"{checkpoint.name} is of the type {kind!r}, of which transformers has no class that fills in")
    written: Any = getattr(transformers, named)
    if not causal:
        pretrained.expect(checkpoint, named, {"is_decoder": False})
    config = pretrained.settings(written, checkpoint)
    model = pretrained.network(written, config, checkpoint, spare=SPARE)
    network = Bidirectional(model, causal)
    talks = codec.template is not None and chat is not False
    mask = "" if codec.mask is None else str(codec.tokenizer.id_to_token(codec.mask))
    endless = not causal and not talks
    role = roles(checkpoint, codec, network.vocab, mask, talks, endless)
    head, tail = ([], []) if talks else codec.frame
    most = None if causal else positions(model, config)
    if not causal:
        network.probe(codec.pad or 0, most)
    return answers(
        network, role, codec, length=length, chat=chat, head=head, tail=tail, pad=codec.pad or 0, most=most,
        endless=endless,
    )  # fmt: skip


def _class(kind: str) -> str | None:
    """The class that fills in for an encoder of this `model_type`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    found = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(kind)
    return str(found) if str(found).endswith("ForMaskedLM") else None


def positions(network: nn.Module, config: Any) -> int | None:
    """How many positions an encoder reads: the rows of its table of positions, of which those up to the padding's are
    for no text where the table has one (RoBERTa's kind); else what its configuration says."""
    named = (part for name, part in network.named_modules() if name.endswith("position_embeddings"))
    tables = (part for part in named if hasattr(part, "weight") and hasattr(part, "padding_idx"))
    rows = [len(part.weight) - (-1 if part.padding_idx is None else part.padding_idx) - 1 for part in tables]
    return min(rows, default=getattr(config, "max_position_embeddings", None))
