"""A small pipeline in aMUSEd's own folder format, with random weights: what the tests of image models load."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import torch

SHARED = TemporaryDirectory(prefix="pipelines")
WORDS = "a red bird cat on the sun good day".split()
START, END = "<|startoftext|>", "<|endoftext|>"
CODES, TOKENS, ROOM = 6, 9, 12  # of the codebook, of the transformer (two of no meaning, then the mask), of a prompt


def pipeline(folder: Path, **options: Any) -> Path:
    """A folder of its own with what `made` makes, which is made once."""
    return Path(copytree(made(**options), folder, dirs_exist_ok=True))


@cache
def made(codes: int = CODES, tokens: int = TOKENS, size: int = 4, halved: bool = False) -> Path:
    """Images of `size` x `size` codes, a code of 2 x 2 pixels; `halved` is the transformer of aMUSEd's larger model,
    which works at half of that. The folder is shared."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    folder = Path(SHARED.name) / f"{codes}-{tokens}-{size}-{halved}"
    torch.manual_seed(0)
    transformer = diffusers.UVit2DModel(
        hidden_size=16, cond_embed_dim=8, micro_cond_encode_dim=4, micro_cond_embed_dim=20, encoder_hidden_size=16,
        vocab_size=tokens, codebook_size=codes, in_channels=16, block_out_channels=16, num_res_blocks=1,
        block_num_heads=2, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, sample_size=size,
        downsample=halved, upsample=halved,
    )  # fmt: skip
    with torch.no_grad():  # large weights, so that neighbours, texts and numbers told would show
        for weight in transformer.parameters():
            weight.add_(0.3 * torch.randn_like(weight)) if weight.dim() < 2 else weight.mul_(1.5)
    transformer.save_pretrained(folder / "transformer")
    vq = diffusers.VQModel(
        block_out_channels=[8, 8], down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1, latent_channels=4, num_vq_embeddings=codes, norm_num_groups=2,
        mid_block_add_attention=False, lookup_from_codebook=True, force_upcast=True,
    )  # fmt: skip
    with torch.no_grad():  # codes that differ, for images that differ, of all shades
        vq.quantize.embedding.weight.copy_(torch.randn(codes, 4))
        vq.quant_conv.weight.mul_(20)
        vq.decoder.conv_out.bias.fill_(0.5)
    vq.save_pretrained(folder / "vqvae")
    known = words(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=known, max_position_embeddings=ROOM, bos_token_id=known - 2, eos_token_id=known - 1, hidden_size=16,
        num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, initializer_range=0.5, projection_dim=8,
    )  # fmt: skip
    CLIPTextModelWithProjection(text).save_pretrained(folder / "text_encoder")
    diffusers.AmusedScheduler(mask_token_id=tokens - 1).save_pretrained(folder / "scheduler")
    parts = {"transformer": "UVit2DModel", "vqvae": "VQModel", "scheduler": "AmusedScheduler",
             "text_encoder": "CLIPTextModelWithProjection", "tokenizer": "CLIPTokenizer"}  # fmt: skip
    ours = {part: ["transformers" if kind.startswith("CLIP") else "diffusers", kind] for part, kind in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "AmusedPipeline", **ours}))
    return folder


def words(folder: Path) -> int:
    """A tokenizer of byte pairs in CLIP's files, in which each of the words is one token; returns its size."""
    letters = sorted(set("".join(WORDS)))
    known, merges = [*letters, *(letter + "</w>" for letter in letters)], []
    for word in WORDS:
        begun, rest = word[0], [*word[1:-1], word[-1] + "</w>"] if word[1:] else []
        for letter in rest:
            merges.append(f"{begun} {letter}")
            begun += letter
            known.append(begun)
    known = [*dict.fromkeys(known), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: at for at, piece in enumerate(known)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
    names = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": ROOM, "do_lower_case": True, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(known)


def change(file: Path, **entries: Any) -> None:
    """Writes entries into a JSON file; None takes one out."""
    written = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({key: value for key, value in written.items() if value is not None}))
