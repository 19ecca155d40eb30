"""Automata of tokens from those of bytes, and how tokenizers of several kinds spell."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models

from iterref.constraint import Regex
from iterref.constraint.spelling import Spelling, spelling
from iterref.constraint.tokens import lift

pytest.importorskip("outlines_core")
PIECES = [b"a", b"b", b" a", b"ab", b"ba", b" ", b"\xc3", b"\xa9", None, None]
END, FILL = 8, 9


def walked(automaton, tokens, start=0):
    state = automaton.starts[start]
    for token in tokens:
        column = int(automaton.classes[token])
        state = -1 if column == automaton.size[1] else int(automaton.step[state, column])
        if state < 0:
            return False
    return bool(automaton.final[state])


@pytest.mark.parametrize("first", [PIECES, [b"a", b"b", b"a", b"ab", b"ba", b" ", b"\xc3", b"\xa9", None, None]])
def test_tokens_lead_where_their_bytes_do(first):
    """Random canvases, against the bytes themselves; with a first token that is spelled in another way, too."""
    regexes = ["(ab)*( a+)?", "[ab ]{3,5}", "a?é+"]
    languages = [Regex(regex).strings for regex in regexes]
    automaton, choice, accepted = lift(languages, Spelling(PIECES, first, []), [END], FILL), random.Random(0), 0
    for _ in range(3000):
        tokens = choice.choices(range(8), k=choice.randint(0, 4))
        text = b"".join(first[t] if not at else PIECES[t] for at, t in enumerate(tokens))
        for number, language in enumerate(languages):
            right = language.accepts(text)
            accepted += right
            assert walked(automaton, tokens, number) == right
            assert walked(automaton, [*tokens, END], number) == right
            assert walked(automaton, [*tokens, END, FILL, FILL, END], number) == right
            assert not walked(automaton, [*tokens, END, 0], number) and not walked(automaton, [*tokens, FILL], number)
    assert accepted > 100


def test_tokens_that_lead_to_the_same_states_are_one_class():
    letters = [bytes([byte]) for byte in range(97, 123)]
    automaton = lift([Regex("[a-z]+").strings], Spelling([*letters, None], [*letters, None], []), [26], 26)
    assert automaton.size[1] == 2  # letters, and the end
    assert lift([Regex("[a-z]*q").strings], Spelling([*letters, None], [*letters, None], []), [26], 26).size[1] == 3


def made(kind: str) -> Tokenizer:
    """A tokenizer whose decoder is of a kind."""
    if kind == "WordPiece":
        names = ["[UNK]", "the", "cat", "##s", ".", "n't", "'", "do", "é"]
        built, decoder = models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"), decoders.WordPiece()
    elif kind == "none":
        names = ["the", "cat", "sat", "é"]
        built, decoder = models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="the"), None
    elif kind == "ByteLevel":
        names = ["a", "Ġthe", "Ã", "©", "Ċ", "!", "Ġ,"]
        built, decoder = models.BPE({n: i for i, n in enumerate(names)}, []), decoders.ByteLevel()
    elif kind == "tidied":
        names = ["a", "Ġthe", "Ġ", "!", "Ġ,", "s", "'"]
        rules = [decoders.Replace(" ,", ","), decoders.Replace(" !", "!"), decoders.Strip(" ", 1, 0)]
        built, decoder = models.BPE({n: i for i, n in enumerate(names)}, []), decoders.Sequence(
            [decoders.ByteLevel(), *rules]
        )
    elif kind == "Metaspace":
        names = ["▁the", "cat", "▁", "s", "é"]
        built, decoder = models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="s"), decoders.Metaspace()
    else:
        names = ["▁the", "cat", "▁", "<0xC3>", "<0xA9>", "s"]
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        built, decoder = models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="s"), decoders.Sequence(parts)
    tokenizer = Tokenizer(built)
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


@pytest.mark.parametrize("kind", ["WordPiece", "none", "ByteLevel", "tidied", "Metaspace", "bytes"])
def test_tokens_are_spelled_as_their_decoder_writes_them(kind):
    tokenizer = made(kind)
    found = spelling(tokenizer, tokenizer.get_vocab_size(), [0] if kind == "WordPiece" else [], tokenizer.decode_batch)
    choice, size = random.Random(1), tokenizer.get_vocab_size()
    for _ in range(200):
        tokens = choice.choices(range(int(kind == "WordPiece"), size), k=choice.randint(1, 6))
        text = found.text(tokens).decode("utf-8", "replace")
        assert text == tokenizer.decode(tokens) or "\ufffd" in text


def test_a_decoder_that_writes_otherwise_is_refused():
    tokenizer = made("ByteLevel")
    with pytest.raises(ValueError, match="not understood"):
        spelling(tokenizer, 7, [], lambda texts: [text.upper() for text in tokenizer.decode_batch(texts)])
    tokenizer.decoder = decoders.CTC()
    with pytest.raises(ValueError, match=r"CTC"):
        spelling(tokenizer, 7, [], tokenizer.decode_batch)
