"""Tiny checkpoints in `transformers`' own format, with random weights: what the tests of network rewards load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

# Words of the bundled model too, so that runs on it have something to read.
WORDS = "police arrested a man in the city on monday after long chase good bad day rain sun . , ##".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[BOS]", "[EOS]"]
SIZE = len(SPECIAL) + len(WORDS)
PIXELS = {
    "do_resize": True,
    "size": {"shortest_edge": 12},
    "do_center_crop": True,
    "crop_size": {"height": 8, "width": 8},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.25],
    "image_processor_type": "CLIPImageProcessor",
}


def tokenizer(folder: Path, kind: str) -> Any:
    """A word tokenizer: [CLS] text [SEP] for "bert", the bare words for "gpt2", [BOS] text [EOS] for "clip"."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    number = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(number, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    first, last = {"bert": ("[CLS]", "[SEP]"), "clip": ("[BOS]", "[EOS]"), "gpt2": (None, None)}[kind]
    if first and last:
        words.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(first, number[first]), (last, number[last])],
        )
    names: dict[str, Any] = {"unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    reads = ["input_ids", "attention_mask", *(["token_type_ids"] if kind == "bert" else [])]
    if kind != "gpt2":  # as GPT-2's, whose tokenizer has no token to pad with
        names |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    made = PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=reads, **names)
    made.save_pretrained(folder)
    return made


def bert_config(**options: Any) -> Any:
    """A BERT of one layer."""
    from transformers import BertConfig

    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    # large weights, so that texts and neighbours would show in the numbers
    return BertConfig(vocab_size=SIZE, max_position_embeddings=24, initializer_range=0.5, **sizes, **options)


def gpt2_config(**options: Any) -> Any:
    """A GPT-2 of two layers."""
    from transformers import GPT2Config

    sizes = dict(n_positions=24, n_embd=16, n_layer=2, n_head=2, initializer_range=0.2)
    return GPT2Config(vocab_size=SIZE, bos_token_id=4, eos_token_id=5, **sizes, **options)


def save(folder: Path, architecture: str, config: Any, kind: str) -> Path:
    """A folder with random weights and a tokenizer."""
    import transformers

    torch.manual_seed(0)
    getattr(transformers, architecture)(config).save_pretrained(folder)
    tokenizer(folder, kind)
    return folder


def sentiment(folder: Path, **options: Any) -> Path:
    """A BERT sequence classifier with the labels NEGATIVE and positive."""
    labels = {"id2label": {0: "NEGATIVE", 1: "positive"}, "label2id": {"NEGATIVE": 0, "positive": 1}}
    return save(folder, "BertForSequenceClassification", bert_config(**(labels | options)), "bert")


def language(folder: Path) -> Path:
    """A GPT-2."""
    return save(folder, "GPT2LMHeadModel", gpt2_config(), "gpt2")


def encoder(folder: Path) -> Path:
    """A BERT encoder without a pooler, as sentence encoders and masked language models come."""
    return save(folder, "BertForMaskedLM", bert_config(), "bert")


def clip(folder: Path) -> Path:
    """A CLIP of images of 8 x 8 pixels, with its image processor's file."""
    from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

    sizes = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, initializer_range=0.5
    )
    text = CLIPTextConfig(
        vocab_size=SIZE, max_position_embeddings=12, bos_token_id=4, eos_token_id=5, pad_token_id=0, **sizes
    )
    vision = CLIPVisionConfig(image_size=8, patch_size=4, **sizes)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    save(folder, "CLIPModel", config, "clip")
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return folder


def vision(folder: Path) -> Path:
    """A ViT classifier of images of 8 x 8 pixels with three classes, with its image processor's file."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, initializer_range=0.5
    )
    torch.manual_seed(0)
    config = ViTConfig(image_size=8, patch_size=4, id2label={0: "cat", 1: "dog", 2: "sun"}, **sizes)
    ViTForImageClassification(config).save_pretrained(folder)
    flat = PIXELS | {"size": {"height": 8, "width": 8}, "do_center_crop": False, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(flat))
    return folder
