"""Duo: uniform diffusion trained through its Gaussian dual (Sahoo et al. 2025, arXiv:2506.10892).

The denoiser is UDLM's (`iterref.models.udlm`): the same network, the same leave-one-out prediction, the same noise, and
its file format; only training differs. The vocabulary holds one token that the tokenizer lacks (padding, 50257 beside
GPT-2's): noise may write it, a text never does.

Compared with s-sahoo/duo at 7c9b498f (models/dit.py, algo.py; the rotary kernel of flash-attn replaced) on the same
random weights, in float32 on a CPU, L = 64 and 1024: logits are the same bits, the law of a step (`_posterior_from_x0`)
differs by at most 3.7e-7.
"""

from __future__ import annotations

from iterref.models.family import Family
from iterref.models.udlm import load

FAMILY = Family(title="Duo", reads=("duo",), tokenizer="gpt2")

__all__ = ["FAMILY", "load"]
