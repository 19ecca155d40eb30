"""AntiBERTy: a BERT of antibody sequences, heavy and light chains, with heads for the species and the chain.

    iterref.load("antiberty")      Classifier("antiberty-species", "Human")      Classifier("antiberty-chain", "Heavy")

Ruffolo, Gray, Sulam 2021, arXiv:2112.07782: 8 layers of 512, 26M parameters, 558M natural sequences; MIT licence.
Compared with the package's own class: tests/packaged/test_antiberty.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from iterref.packaged.residues import tokenizer
from iterref.packaged.source import Converted, Packaged, unpickled

SPECIAL = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
SPECIES = ("Camel", "Human", "Mouse", "Rabbit", "Rat", "Rhesus")
CHAINS = ("Heavy", "Light")
LENGTH = 160  # positions of a canvas: a variable domain has 100 to 140 residues
TRAINED = "trained_models/AntiBERTy_md_smooth"
FILES = {
    f"{TRAINED}/pytorch_model.bin": "f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137",
    f"{TRAINED}/config.json": "e199c1692b5f0246ebc5522102044d6e900ffc7d56fa5932fdd5b3d56ef487e9",
    "trained_models/vocab.txt": "6db8c6cd6361eb233005b2dfe665d40d7f1ba78951bdf0fe61fa670ce192419a",
}


def convert(files: Sequence[Path], head: str = "", labels: Sequence[str] = ()) -> Converted:
    """The language model, or the classifier of a `head` with its `labels`."""
    weights, config, vocabulary = files
    held = unpickled(weights)
    kept = {name: weight for name, weight in held.items() if name.startswith("bert.") and "position_ids" not in name}
    written = {**json.loads(config.read_text(encoding="utf-8")), "mask_token_id": 4, "canvas_length": LENGTH}
    written.pop("_name_or_path", None)  # a folder of the trainers
    if head:
        kept |= {f"classifier.{part}": held[f"cls.{head}.{part}"] for part in ("weight", "bias")}
        written |= {"architectures": ["BertForSequenceClassification"], "problem_type": "single_label_classification"}
        written |= {"id2label": dict(enumerate(labels)), "label2id": {label: at for at, label in enumerate(labels)}}
    else:
        kept = {name: weight for name, weight in kept.items() if "pooler" not in name}
        kept |= {name: weight for name, weight in held.items() if name.startswith("cls.predictions.")}
        written["architectures"] = ["BertForMaskedLM"]
    about = {**SPECIAL, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    return Converted(written, kept, tokenizer(vocabulary.read_text(encoding="utf-8").split(), SPECIAL), about)


CHECKPOINTS = (
    Packaged("antiberty", "antibody sequences, heavy and light chains (AntiBERTy, masked, 26M)", "models",
             "antiberty", "0.1.3", FILES, convert, extra="antibodies"),
    Packaged("antiberty-species", "the species that an antibody is from: Human, Mouse, ... (AntiBERTy)", "rewards",
             "antiberty", "0.1.3", FILES, partial(convert, head="species", labels=SPECIES), extra="antibodies"),
    Packaged("antiberty-chain", "whether a chain of an antibody is Heavy or Light (AntiBERTy)", "rewards",
             "antiberty", "0.1.3", FILES, partial(convert, head="chain", labels=CHAINS), extra="antibodies"),
)  # fmt: skip
