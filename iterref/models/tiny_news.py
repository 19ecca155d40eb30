"""Tiny-news: the bundled masked diffusion summariser of news sentences, and any other folder of its format.

    p(summary | document) by masked diffusion over a canvas of L tokens: the summary, then <eos> to the end

The document is encoded once; its candidates share the result. `normalise` brings raw text to the form of the training
data. docs/tiny_news.md tells how the weights were made and how good they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from iterref import hub
from iterref.denoiser import Denoiser
from iterref.fence import fenced
from iterref.models.family import Family
from iterref.models.pretrained import filled
from iterref.models.text.codec import Codec
from iterref.models.text.files import read_tokenizer
from iterref.models.text.reading import unread
from iterref.models.text.tokenized import TokenizedModel
from iterref.models.transformer import Memory, Transformer, TransformerOptions
from iterref.noise import Noise, absorbing

FAMILY = Family(
    title="what `iterref train` writes",
    reads=("iterref-summarizer-*",),
    whole="a summariser has its own length and tokenizer: leave length and tokenizer out",
)
WEIGHTS = Path(__file__).parent / "weights" / "tiny-news"
UNKNOWN = "<unk>"
FORMAT = "iterref-summarizer-1"
FORMS = ("news", "plain")  # how a model reads text: normalised, or as it stands

CURLY = {"\u2018": "'", "\u2019": "'", "\u201c": " `` ", "\u201d": " '' ", "\u2013": "-", "\u2014": " -- "}
QUOTES = str.maketrans(CURLY)
ABBREVIATIONS = frozenset(
    "mr mrs ms dr st no rs jr sr inc co corp ltd gov sen rep gen lt col sgt capt prof rev hon ft mt vs etc ave "
    "jan feb mar apr aug sept oct nov dec".split()
)
RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r'(^|[\s(\[{])"', r"\1 `` "),
        (r'"', " '' "),
        (r"(``|''|\.\.\.|--+)", r" \1 "),
        (r"([;:!?@$%&£€()\[\]{}<>])(?!\d)", r" \1 "),
        (r"([;!?@$%&£€()\[\]{}<>])", r" \1 "),
        (r",(?!\d)", " , "),
        (r"(?<!\d),", " , "),
        (r"(?<=\d)-(?=\d)", " - "),
        (r"(?<=\S)('s|'m|'d|'ll|'re|'ve|n't)(?=\s|$|[.,])", r" \1"),
        (r"(?<=[a-z0-9])'(?=\s|$|[.,])", " '"),
        (r"(?<!\S)'(?=[a-z0-9]{3})", "' "),
        (r"(?<!\S)<\s+unk\s+>(?!\S)", UNKNOWN),
    )
)


def normalise(text: str) -> str:
    """Raw text in the form of the training data: lower case, words and punctuation apart, numbers as `##`. A word with
    a digit in it becomes `##` as a whole. Text that is in that form already stays as it is."""
    text = text.translate(QUOTES).lower()
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    words = [part for word in text.split() for part in full_stop(word)]
    return " ".join("##" if any(c.isdigit() for c in word) else word for word in words)


def full_stop(word: str) -> list[str]:
    """A word without its closing full stop, which stays with initials, abbreviations and words like `u.s.`."""
    stem = word.removesuffix(".")
    letters = stem.rpartition(".")[2]
    if stem == word or len(letters) < 2 or stem in ABBREVIATIONS or set(stem) == {"."}:
        return [word]
    return [stem, "."]


def load(
    name: str | Path, *, revision: str | None = None, dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu", lossy: bool = False,
) -> Summarizer:  # fmt: skip
    """The model in a folder that `iterref train` wrote. Raises as `Summarizer.load` does."""
    return Summarizer.load(name, device, str(dtype).removeprefix("torch."), lossy)


class NewsCodec(Codec):
    """The tokenizer of texts in the training data's form, in which a word of a prompt may be `<unk>` itself."""

    def ids(self, texts: Sequence[str], what: str = "text", rows: Sequence[int] | None = None) -> list[list[int]]:
        """As `Codec.ids`; lost are the characters that the vocabulary lacks."""
        normal = [normalise(text) for text in texts]
        read = self.tokenizer.encode_batch(normal, add_special_tokens=False)
        literal = UNKNOWN if what == "prompt" else ""  # a text would come back without it
        for row, text, one in zip(range(len(texts)) if rows is None else rows, normal, read, strict=True):
            lacks = "" if self.unknown is None else unread(text, one, self.unknown, literal)
            self.expect_readable(f"{what} {row}", one, lacks)
        return [one.ids for one in read]


@dataclass(frozen=True)
class SummaryDenoiser(Denoiser):
    """The network at a fixed set of encoded prompts; with `half` the decoder multiplies in bfloat16."""

    network: Transformer
    memory: Memory
    noise: Noise
    half: bool = False
    fill: int | None = None

    time_independent = True

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self.probabilities(x_t, t, where, rows).log_()

    @torch.no_grad()
    def probabilities(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        mask = self.network.options.mask
        busy = where.any(1)  # rows without an open position are not worth a pass
        x_t, where, rows = x_t[busy], where[busy], rows[busy]
        if not len(rows):
            return torch.empty(0, self.network.options.vocab, device=x_t.device)
        p = self._head(x_t, where, rows)
        seen = x_t[where]
        known = (seen != mask).nonzero().squeeze(1)
        if len(known):
            p[known] = 0.0
            p[known, seen[known]] = 1.0
        return p

    def _head(self, x_t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """One pass. Where all prompts have equally many canvases, these read their prompt's memory uncopied."""
        counts = torch.bincount(rows, minlength=len(self.memory.source))
        shared = bool((counts == counts[0]).all())
        order = rows.argsort(stable=True) if shared else torch.arange(len(rows), device=rows.device)
        memory, back = self.memory if shared else self.memory.take(rows), order.argsort()
        with torch.autocast(x_t.device.type, dtype=torch.bfloat16, enabled=self.half):  # and not the head
            states = self.network.decode(x_t[order], memory).float()
        scores = self.network.scores(states, memory)[back]
        source = self.memory.source[rows[where.nonzero()[:, 0]]]
        return self.network.mixture(states[back][where], scores[where], source)


class Summarizer(TokenizedModel):
    """A text model: prompts in, a denoiser of their summaries out, and text to tokens and back. `length` is the number
    of canvas positions, `eos` the token that ends a summary and fills the rest of the canvas, `source_length` the most
    tokens of a prompt and its end, `form` one of `FORMS`. In `precision` "bfloat16" the decoder multiplies in half
    precision. A model that is not `prompted` writes texts of its own, for empty prompts alone."""

    longer = ""  # its canvas is as long as it was trained

    def __init__(
        self, network: Transformer, tokenizer: Tokenizer, length: int, eos: int, source_length: int,
        precision: str = "float32", prompted: bool = True, lossy: bool = False, form: str = "news",
    ) -> None:  # fmt: skip
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"a summariser runs in float32 or bfloat16, got dtype={precision!r}: say one of them")
        options = network.options
        kind = NewsCodec if form == "news" else Codec
        codec = kind(tokenizer, start=None, end=eos, pad=None, mask=options.mask, lossy=lossy)
        super().__init__(absorbing(options.vocab, options.mask), length, codec, network.table.weight.device, None)
        self.network, self.half = network.eval().requires_grad_(False), precision == "bfloat16"
        self.tokenizer, self.source_length, self.prompted, self.eos = tokenizer, source_length, prompted, eos
        self.form = form
        self.ends = [eos]

    @classmethod
    def load(
        cls, folder: str | Path | None = None, device: torch.device | str = "cpu", precision: str = "float32",
        lossy: bool = False,
    ) -> Summarizer:  # fmt: skip
        """The summariser in a folder that `iterref.training.train` wrote; None is the bundled one. Raises
        `FileNotFoundError` if a file is missing and `ValueError` if the folder is damaged or of another format."""
        folder = WEIGHTS if folder is None else Path(folder)
        for name in ("config.json", "tokenizer.json", "weights.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}: give a folder that training exported")
        config = hub.read_json(folder / "config.json", str(folder))
        if config.get("format") != FORMAT:
            raise ValueError(f"{folder} is no {FORMAT} folder: give one that training exported")
        for name, digest in config.get("sha256", {}).items():
            if sha256((folder / name).read_bytes()).hexdigest() != digest:
                told = f"{folder / name} is not the file that config.json was written with"
                raise ValueError(f"{told}: rerun the training command to export anew, or get the folder again")
        with hub.reading(folder / "weights.safetensors", str(folder)):
            weights = {name: weight.float() for name, weight in load_file(folder / "weights.safetensors").items()}
        try:
            with torch.device("meta"):
                sizes = {name: size for name, size in config["transformer"].items() if name != "timed" or size}
                network = Transformer(TransformerOptions(**sizes))  # none that reads the time was ever exported
            network = filled(network, weights, str(folder), lambda name: torch.float32, torch.device(device))
            tokenizer = read_tokenizer(folder, {}, str(folder))
            length, eos, source_length = (int(config[name]) for name in ("length", "eos", "source_length"))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ValueError(f"{folder} is damaged ({hub.first_line(error)}): export it or get it again") from None
        if tokenizer.get_vocab_size() != network.options.vocab:
            raise ValueError(f"{folder} holds the tokenizer of another model: export it again, or get it again")
        if not all(bool(weight.isfinite().all()) for weight in weights.values()):
            raise ValueError(f"{folder} holds weights that are not finite, of a training that diverged: train it anew")
        prompted, form = bool(config.get("prompted", True)), config.get("form", "news")
        if form not in FORMS:
            raise ValueError(f"{folder} reads texts in the form {form!r}, unknown to this version: update iterref")
        return cls(network, tokenizer, length, eos, source_length, precision, prompted, lossy, form)

    def prepare(self, prompts: Sequence[str]) -> tuple[SummaryDenoiser, Tensor, Tensor]:
        """B prompts, encoded once -> their denoiser, canvases (B, L) of masks, and free positions (B, L), all of them.
        Raises `ValueError` for no prompts, an empty one or one that is too long."""
        canvas, sources = self._blank(prompts), []
        for row, ids in enumerate(self.codec.ids(prompts, "prompt")):
            if not self.prompted and prompts[row].strip():
                raise ValueError(f"prompt {row} is given, and this model was trained without: give empty prompts")
            if self.prompted and not ids:
                raise ValueError(f"prompt {row} is empty: pass a document, or take tiny-books, which has no prompts")
            if len(ids) >= self.source_length:
                most = self.source_length - 1
                raise ValueError(f"prompt {row} has {len(ids)} tokens and the model reads at most {most}: shorten it")
            sources.append(torch.tensor([*ids, self.eos]))
        padded = pad_sequence(sources, batch_first=True, padding_value=self.network.options.pad)
        with fenced(self.device):
            memory = self.network.encode(padded.to(self.device))
        denoiser = SummaryDenoiser(self.network, memory, self.noise, half=self.half, fill=self.fill)
        return denoiser, canvas, torch.ones_like(canvas, dtype=torch.bool)
