"""A text model of six tokens with an exact distribution, masked or uniform noise, and a byte-level tokenizer."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from iterref.exact.markov import world
from iterref.models.text.codec import Codec
from iterref.models.text.prefix import PrefixModel

PIECES = ["a", "b", "c", "ab", "Ġ", "</s>"]
END = 5


def codec(mask: int | None) -> Codec:
    tokenizer = Tokenizer(models.BPE({piece: at for at, piece in enumerate(PIECES)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    return Codec(tokenizer, start=None, end=END, pad=None, mask=mask)


def script(kind: str, length: int = 7) -> PrefixModel:
    """Texts of a Markov chain over the tokens, of at most `length` tokens."""
    denoiser = world(length, len(PIECES), 3, kind)[0]
    return PrefixModel(denoiser, length, codec(denoiser.noise.mask), framed=False)
