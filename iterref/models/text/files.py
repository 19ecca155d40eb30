"""Files: the tokenizer in a folder, in whatever form it is shipped, without code of the checkpoint's.

    tokenizer.json     vocab.txt (BERT, ESM)     vocab.json + merges.txt (GPT-2, RoBERTa)     *.model of sentencepiece

Those without a tokenizer.json are converted by the class that `transformers` has for them. Truncation and padding that
were stored with a tokenizer are somebody's settings and no part of it: they are taken off.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from iterref.hub import casing, first_line, quiet, read_json
from iterref.optional import require
from iterref.packaged import residues

# Byte pairs of Qwen2's kind, which Dream's repositories hold beside code of their own.
BYTE_PAIRS = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "DreamTokenizer")
KEYS = ("content", "special", "single_word", "lstrip", "rstrip", "normalized")  # of an added token
# What a class of `transformers` takes from tokenizer_config.json, whatever stands in tokenizer.json, by the part of a
# tokenizer and its kind; the classes for any tokenizer do not.
TOLD = {
    ("normalizer", "BertNormalizer"): {
        "do_lower_case": "lowercase", "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    },
    ("pre_tokenizer", "ByteLevel"): {"add_prefix_space": "add_prefix_space"},
}  # fmt: skip
GENERAL = ("", "PreTrainedTokenizerFast", "TokenizersBackend")
ESM_FRAME = {"cls_token": "<cls>", "sep_token": "<eos>", "unk_token": "<unk>"}


def read_tokenizer(folder: Path, config: Mapping[str, Any], name: str) -> Tokenizer:
    """The tokenizer in a folder; `config` is its tokenizer_config.json. Raises `FileNotFoundError` where there is none
    and `ValueError` for one that cannot be read."""
    form = next((form for form in FORMS if all((folder / file).is_file() for file in form)), None)
    model = next(iter(sorted(folder.glob("*.model"))), None)
    if form is None and model is None:
        lacks = f"{name} has no tokenizer.json, vocab.txt, vocab.json with merges.txt, or sentencepiece *.model"
        raise FileNotFoundError(f"{lacks}: name the tokenizer of its training (tokenizer=), or none (tokenizer='none')")
    found = f"{' and '.join(form) if form else str(model and model.name)} of {name}"
    if form is None:
        require("sentencepiece", "sentencepiece", found)
        require("google.protobuf", "sentencepiece", found)
        if not _class(folder, config):
            how = 'write its class into tokenizer_config.json, as in {"tokenizer_class": "T5Tokenizer"}'
            raise ValueError(f"{found} may belong to any model: {how}")
    try:
        if form == FORMS[0]:
            made = completed(told(Tokenizer.from_file(str(folder / form[0])), config), folder, config)
        else:
            made = converted(folder, config, form)
    except Exception as error:  # the library's parser raises bare Exceptions
        raise ValueError(f"{found} cannot be read ({first_line(error)}): get it again") from None
    made.no_truncation()
    made.no_padding()
    return made


FORMS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))


def converted(folder: Path, config: Mapping[str, Any], form: tuple[str, ...] | None) -> Tokenizer:
    """The tokenizer that the class of `transformers` makes of its files. Raises what reading raises."""
    import transformers

    kind = _class(folder, config)
    if kind in BYTE_PAIRS:
        shipped: Any = transformers  # its lazy module does not declare every alias
        return numbered(shipped.Qwen2TokenizerFast.from_pretrained(folder).backend_tokenizer, config)
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n") if form == FORMS[2] else []
    if kind.lower() in ("esm", "esmtokenizer") or lines[:1] == ["<cls>"]:
        names = [line.strip() for line in lines if line.strip()]
        special = {name: name for name in names if name.startswith("<")} | ESM_FRAME
        return Tokenizer.from_str(residues.tokenizer(names, special, blanks=True))
    options = casing(folder, config) if lines else {}
    with quiet():
        if kind:
            local = {"trust_remote_code": False, "local_files_only": True}
            made = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True, **local, **options)
        else:  # nothing says what it is: the files themselves do
            words = read_json(folder / "vocab.json", str(folder)) if form == FORMS[1] else {}
            usual = "BertTokenizer" if lines else "RobertaTokenizer" if "<s>" in words else "GPT2Tokenizer"
            made = getattr(transformers, usual).from_pretrained(folder, **options)
    if not hasattr(made, "backend_tokenizer"):
        raise ValueError(f"transformers has no fast tokenizer for {type(made).__name__}")
    return made.backend_tokenizer


def _class(folder: Path, config: Mapping[str, Any]) -> str:
    """The class of a tokenizer, or the kind of model that it belongs to; "" where nothing says it."""
    about = read_json(folder / "config.json", str(folder)) if (folder / "config.json").is_file() else {}
    return str(config.get("tokenizer_class") or about.get("model_type") or "")


def told(tokenizer: Tokenizer, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer with what its configuration says about it (`TOLD`)."""
    for (name, kind), options in TOLD.items() if config.get("tokenizer_class", "") not in GENERAL else ():
        part = getattr(tokenizer, name)
        for key, option in options.items() if type(part).__name__ == kind else ():
            if isinstance(config.get(key), bool):
                setattr(part, option, config[key])
        setattr(tokenizer, name, part)
    return tokenizer


def completed(tokenizer: Tokenizer, folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer, with the tokens that the files beside it add, as `transformers` does. Raises `ValueError` where
    they get other ids than these files say."""
    file, named = folder / "added_tokens.json", [one for key, one in config.items() if key.endswith("_token")]
    beside = read_json(file, str(folder)) if file.is_file() else {}
    listed = {int(token): {"special": name in named, "content": name} for name, token in beside.items()}
    listed |= {int(token): entry for token, entry in dict(config.get("added_tokens_decoder") or {}).items()}
    lacking = {token: one for token, one in sorted(listed.items()) if tokenizer.token_to_id(one["content"]) is None}
    tokenizer.add_tokens([AddedToken(**{key: one[key] for key in KEYS if key in one}) for one in lacking.values()])
    return numbered(tokenizer, {"added_tokens_decoder": lacking})


def numbered(tokenizer: Tokenizer, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer, if its added tokens have the ids that its configuration lists. Raises `ValueError` else."""
    for token, entry in dict(config.get("added_tokens_decoder") or {}).items():
        found = tokenizer.token_to_id(entry["content"])
        if found != int(token):
            raise ValueError(f"the added token {entry['content']!r} is said to be {token} and is {found}")
    return tokenizer
