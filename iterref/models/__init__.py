"""Models: one family a file, each a denoiser of tokens; `load` reads a checkpoint of any of them.

    iterref.models.load("tiny-books")           iterref.models.mdlm
"""

from typing import TYPE_CHECKING

from iterref import lazy

if TYPE_CHECKING:
    from iterref.loading import load
    from iterref.models import (
        amused,
        bd3lm,
        diffusion_gemma,
        dream,
        duo,
        fast_dllm,
        llada,
        llada2,
        masked_lm,
        mdlm,
        nemotron,
        sdar,
        sedd,
        stable_diffcoder,
        tiny_news,
        udlm,
    )
    from iterref.models.base import Chat
    from iterref.models.text.stopping import Stopping

__all__ = [
    "Chat", "Stopping", "amused", "bd3lm", "diffusion_gemma", "dream", "duo", "fast_dllm", "llada", "llada2", "load",
    "masked_lm", "mdlm", "nemotron", "sdar", "sedd", "stable_diffcoder", "tiny_news", "udlm",
]  # fmt: skip

lazy.attach(__name__)
