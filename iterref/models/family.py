"""Family: what the file of a model family says of itself, as literals, which lists read without importing the file.

    FAMILY = Family(title="LLaDA", reads=("llada",), spread=True)         beside it, `load` makes the text model
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A model family, called by its file's name. `title` is its name in lists. `reads` are the names, in lower case, by
    which a configuration asks for it (`model_type`, `architectures`, `format`, or a pipeline's `_class_name`); one may
    be a pattern, as "*formaskedlm". `keys` are those of a configuration that has no such name. `tokenizer` is a hub
    name for checkpoints that come without one. `recognises` names a function of the file that looks at a whole
    configuration, beyond such names, and has the last word. `spread`: whether a device map may spread the network over
    devices. `whole` is said of a family that reads its folder by itself and has a length and a tokenizer of its own:
    the sentence that refuses others."""

    title: str
    reads: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    tokenizer: str | None = None
    spread: bool = False
    recognises: str | None = None
    whole: str | None = None
