"""Models: one family a file, each a denoiser of tokens; `load` reads a checkpoint of any of them.

    iterref.models.load("tiny-books")           iterref.models.mdlm
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iterref import lazy

if TYPE_CHECKING:
    from iterref.loading import load
    from iterref.models import amused, diffusion_gemma, dream, duo, llada, masked_lm, mdlm, sdar, sedd, tiny_news, udlm
    from iterref.models.base import Chat
    from iterref.models.text.stopping import Stopping

lazy.attach(__name__)
