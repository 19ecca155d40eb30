"""Resume: whether a saved history is that of this session's model and prompts, and its numbers those of its reward.

    model, prompts    by digests, of what the model reads out of the first tokens too: others are refused
    reward, drift     asked anew of every text: where the numbers are others, all are replaced

Whether a reward is the same cannot be told from its name or code, only from what it gives.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import torch

from iterref.budget import Cost
from iterref.editing.history import History, Node
from iterref.editing.session import Context, Editing
from iterref.estimation import network_weights
from iterref.models.base import TextModel
from iterref.run import Run

SAMPLED = 64  # numbers of every weight tensor that a model is known by


def resumed(context: Context, saved: History, about: dict[str, Any], asked: Cost) -> Editing:
    """The session at the newest node of a saved history; `asked` is what its pool of drafts took a sample. Raises
    `ValueError` for a history of another model or other prompts, and `RewardError` where the reward fails."""
    for name in ("model", "prompts", "tokenizer"):
        if saved.about.get(name, about[name]) != about[name]:
            raise ValueError(f"the history was made with another {name}: give the {name} of that session")
    problem = context.problem
    nodes = [node.on(problem.canvas.device) for node in saved]
    for node in nodes:
        tokens, vocab = node.tokens, problem.noise.vocab
        foreign = tokens.shape != problem.canvas.shape or bool(((tokens < 0) | (tokens >= vocab)).any())
        # a text may stand as it was given, in another form than the model's: the digest tells whether it is its own
        if foreign or "tokenizer" not in saved.about and context.model.decode(tokens) != node.texts:
            raise ValueError(f"node {node.id} of the history holds no texts of this model: give its own")
    run, tokens = Run(problem).repeat(len(nodes)), torch.cat([node.tokens for node in nodes])
    rewards, drift = run.reward_of(tokens, final=False), context.drift(tokens, run.rows)
    history = History(nodes, about)
    if all(
        torch.allclose(found, torch.cat([getattr(node, name) for node in nodes]), rtol=1e-6, atol=1e-9)
        for name, found in (("rewards", rewards), ("drift", drift))
    ):
        return Editing(context, history, len(nodes) - 1)
    numbers = zip(nodes, rewards.chunk(len(nodes)), drift.chunk(len(nodes)), strict=True)
    history.nodes = [replace(node, rewards=reward, drift=moved) for node, reward, moved in numbers]
    last, options = history.nodes[-1], {name: about[name] for name in ("reward", "drift", "distance")}
    told = {name: value for name, value in options.items() if value is not None}
    cost = Cost(0, len(nodes)) + asked
    node = Node(0, last.id, "rescore", told, last.tokens, last.texts, last.rewards, last.drift, cost=cost)
    return Editing(context, history, history.add(node).id)


def name_of(reward: Any) -> str:
    """What a reward is called, for a reader."""
    named = reward if hasattr(reward, "__qualname__") else type(reward)
    return f"{named.__module__}.{named.__qualname__}"


def digest(values: Any) -> str:
    """A digest of what JSON can write."""
    return sha256(json.dumps(values).encode()).hexdigest()[:32]


def fingerprint(model: TextModel) -> str:
    """A model by its class, its vocabulary and a sample of its weights."""
    noise, found = model.noise, sha256()
    for weight in network_weights(model):
        picked = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)]
        found.update(picked.double().cpu().numpy().tobytes())
    return f"{type(model).__name__} {noise.vocab} {noise.mask} {found.hexdigest()[:32]}"
