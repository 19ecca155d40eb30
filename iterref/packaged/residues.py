"""Residues: the tokenizer of protein models, one letter a token without blanks, as sequences are written.

    EVQLVE  ->  [CLS] E V Q L V E [SEP]

A letter that the vocabulary lacks (J, small letters, a blank) becomes the unknown token, which readers refuse by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def tokenizer(vocabulary: Sequence[str], special: Mapping[str, str], blanks: bool = False) -> str:
    """The content of tokenizer.json for tokens in the order of their ids; `blanks` may stand between the letters.
    `special` names the tokens that are no residues, as tokenizer_config.json does: `cls_token` and `sep_token` stand
    around a text, `unk_token` for what is not known."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    number = {token: place for place, token in enumerate(vocabulary)}
    made = Tokenizer(models.WordLevel(number, unk_token=special["unk_token"]))
    letters = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), letters]) if blanks else letters
    made.decoder = decoders.Fuse()
    first, last = special["cls_token"], special["sep_token"]
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(token, number[token]) for token in (first, last)]
    )
    made.add_special_tokens([AddedToken(token, special=True) for token in special.values()])
    return str(made.to_str())
