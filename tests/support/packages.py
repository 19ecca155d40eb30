"""Packages that carry trained weights or genes: tests that need one say why they skip where it is not installed."""

from __future__ import annotations

from importlib.metadata import metadata
from importlib.util import find_spec

import pytest

from iterref import packaged
from iterref.models.text.prompted import PromptedModel
from iterref.packaged.source import Packaged

TRASTUZUMAB = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)
RITUXIMAB = (
    "QVQLQQPGAELVKPGASVKMSCKASGYTFTSYNMHWVKQTPGRGLEWIGAIYPGNGDTSYNQKFKGKATLTADKSSSTAYMQLSSLTSEDSAVYYCARSTYYGGDWYFNVWGAGTTVTVSA"
)


def needs(*names: str | Packaged) -> pytest.MarkDecorator:
    """Skips where the package of one of these, checkpoints by their names, is not installed."""
    known = packaged.checkpoints()
    asked = [known[name] if isinstance(name, str) else name for name in names]
    absent = [one for one in asked if find_spec(one.package.replace("-", "_")) is None]
    reason = "; ".join(f"{one.package} is not installed: pip install {one.asked}" for one in absent)
    return pytest.mark.skipif(bool(absent), reason=reason or "all are installed")


def readme(package: str) -> str:
    """What an installed package says of itself, with the figures and sequences of its examples."""
    return str(metadata(package).get_payload())


def frame(model: PromptedModel) -> tuple[int, int, int]:
    """The tokens before a text, behind it, and behind that."""
    before, behind = model.codec.frame
    assert model.codec.pad is not None
    return before[0], behind[0], model.codec.pad
