"""Masked language models of `transformers` with random weights, and word tokenizers beside them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SHARED = TemporaryDirectory(prefix="masked")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "the cat dog saw a man ran home Q : A".split()
PAD, CLS, SEP, MASK = 0, 2, 3, 4
TEMPLATE = "{% for m in messages %}Q : {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}A :{% endif %}"
SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 24, "initializer_range": 0.5, "pad_token_id": PAD,
}  # fmt: skip


def write_tokenizer(folder: Path, template: str | None = None, mask: bool = True, framed: bool = True) -> int:
    names = [name if mask or name != "[MASK]" else "[X]" for name in SPECIAL + WORDS]
    words = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if framed:
        ends = [("[CLS]", CLS), ("[SEP]", SEP)]
        words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if mask:
        special["mask_token"] = "[MASK]"
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template, **special)
    made.save_pretrained(folder)
    return len(names)


def write_model(folder: Path, name: str, vocab: int = 18, **options: Any) -> Any:
    """A checkpoint with more rows in its table than the tokenizer has tokens."""
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    made = cls(cls.config_class(vocab_size=vocab, **options)).eval()
    made.save_pretrained(folder)
    return made


ENCODERS: dict[str, dict[str, Any]] = {
    "BertForMaskedLM": SIZES,
    "RobertaForMaskedLM": SIZES,
    "ModernBertForMaskedLM": {
        **SIZES, "cls_token_id": CLS, "sep_token_id": SEP, "bos_token_id": CLS, "eos_token_id": SEP,
        "global_attn_every_n_layers": 2, "local_attention": 8,
    },
    "DistilBertForMaskedLM": {
        "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 24,
        "initializer_range": 0.5,
    },
    "ElectraForMaskedLM": {**SIZES, "embedding_size": 16},
    "DebertaV2ForMaskedLM": SIZES,
}  # fmt: skip
DECODERS: dict[str, dict[str, Any]] = {
    "Qwen3ForCausalLM": {**SIZES, "num_key_value_heads": 1, "head_dim": 8},
    "LlamaForCausalLM": {**SIZES, "num_key_value_heads": 1, "bos_token_id": None, "eos_token_id": None},
}
def checkpoint(folder: Path, name: str = "BertForMaskedLM", **tokens: Any) -> Any:
    """Writes a checkpoint, which is made once, and returns its network, which is shared."""
    made, network = _checkpoint(name, **tokens)
    copytree(made, folder, dirs_exist_ok=True)
    return network


@cache
def _checkpoint(name: str, **tokens: Any) -> tuple[Path, Any]:
    folder = Path(mkdtemp(dir=SHARED.name))
    write_tokenizer(folder, **tokens)
    return folder, write_model(folder, name, **{**ENCODERS, **DECODERS}[name])
