"""Trains the digit models, their classifiers and their discriminators, from the digits that scikit-learn ships.

    OMP_NUM_THREADS=1 python -m benchmarks.models.train_digits --out benchmarks --seed 0        15 minutes of one core

    held out  40 images a class: the reference of the Frechet distance; no network learns from them
    first     half of the others: the reward's classifier          second    the other half: the judge
    both      the diffusion models, and the discriminators against their samples of 4 steps

Image j of a class, in scikit-learn's order, is held out where j % 4 = 3 and j < 160; the others take turns.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.models.digits import CLASSES, FOLDERS, FORMAT, LENGTH, NONE, Digits, DigitsNetwork, DigitsOptions
from benchmarks.rewards.digits import ClassNetwork, JudgeNetwork, RealismNetwork
from iterref.problem import Problem
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

logger = logging.getLogger("digits")
BATCH = 64
DROP = 0.1  # share of images whose class is left out in training, for the law without a class
STEPS = {"models": 1_500, "classifiers": 1_500, "realism": 2_500}
# Whose samples discriminators learn from, and how many a real image. Samples of 16 steps they cannot tell from data.
PLAIN, SAMPLES = "ancestral:steps=4", 4


def split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Which images are held out, and the halves of the others, by number."""
    parts: dict[str, list[int]] = {"held": [], "first": [], "second": []}
    for label in range(CLASSES):
        rest = 0
        for j, image in enumerate(np.flatnonzero(labels == label)):
            if j % 4 == 3 and j < 160:
                parts["held"].append(image)
            else:
                parts[("first", "second")[rest % 2]].append(image)
                rest += 1
    return {name: np.array(sorted(images)) for name, images in parts.items()}


def trained(network: nn.Module, loss: Callable[[torch.Generator], Tensor], steps: int, rate: float, seed: int) -> None:
    """AdamW, warm-up and a linear fall over the last 60 %; the network is left with its averaged weights."""
    generator, begun = torch.Generator().manual_seed(seed), time.perf_counter()
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
    average, losses = [p.detach().clone() for p in parameters], []
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50, (steps - step) / (0.6 * steps))
        value = loss(generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(float(value.detach()))
        with torch.no_grad():
            for kept, p in zip(average, parameters, strict=True):
                kept.lerp_(p, 1 - min(0.995, (1 + step) / (10 + step)))
        if (step + 1) % 250 == 0:
            logger.info("  step %d  %.0f s  loss %.4f", step + 1, time.perf_counter() - begun, np.mean(losses[-250:]))
    with torch.no_grad():
        for kept, p in zip(average, parameters, strict=True):
            p.copy_(kept)
    network.eval()


def denoising(network: DigitsNetwork, x: Tensor, y: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """Mean cross-entropy of the renewed tokens, in nats: the evidence bound a token, under absorbing noise.

    Times are spread evenly over the batch; one token an image is renewed in any case.
    """
    rows = len(x)
    t = (torch.rand((), generator=generator) + torch.arange(rows) / rows) % 1
    renewed = torch.rand(x.shape, generator=generator) < t[:, None]
    renewed[torch.arange(rows), torch.randint(LENGTH, (rows,), generator=generator)] = True
    noise = network.options.noise
    fresh = torch.multinomial(noise.pi, x.numel(), replacement=True, generator=generator).view(x.shape)
    y = torch.where(torch.rand(rows, generator=generator) < drop, NONE, y)
    logits = network(torch.where(renewed, fresh, x), t, y, renewed)
    losses = F.cross_entropy(logits, x[renewed], reduction="none")
    return (losses / renewed.sum(1)[renewed.nonzero()[:, 0]]).sum() / rows


def perturbed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Grey levels off by one now and then: classifiers must not hang on a single level."""
    return (x + torch.randint(-1, 2, x.shape, generator=generator)).clamp(0, 16)


def save(network: nn.Module, file: Path, **more: Tensor) -> None:
    """Writes the weights in float16, and gives the network these weights."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.half() for name, weight in network.state_dict().items()}
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    save_file({**weights, **more}, file)


def model(kind: str, x: Tensor, y: Tensor, held: tuple[Tensor, Tensor], out: Path, seed: int) -> None:
    """A diffusion model."""
    torch.manual_seed(seed)
    options = DigitsOptions(masked=kind == "masked")
    network, size = DigitsNetwork(options), len(x)

    def loss(generator: torch.Generator) -> Tensor:
        i = torch.randint(size, (BATCH,), generator=generator)
        return denoising(network, x[i], y[i], DROP, generator)

    trained(network, loss, STEPS["models"], 2e-3, seed)
    folder = out / "models" / "weights" / FOLDERS[kind]
    save(network, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"format": FORMAT, "network": asdict(options)}, indent=2) + "\n")
    with torch.inference_mode():
        for name, (images, labels) in {"training": (x, y), "held out": held}.items():
            generator = torch.Generator().manual_seed(1)
            values = [float(denoising(network, images, labels, 0.0, generator)) for _ in range(4)]
            logger.info("%s model: %s loss %.4f nats a token", kind, name, np.mean(values))


def classifiers(x: Tensor, y: Tensor, parts: dict[str, np.ndarray], out: Path, seed: int) -> None:
    """The reward's classifier and the judge, and the moments of the held-out images under the judge."""
    held = parts["held"]
    made: list[tuple[str, nn.Module, str]] = []
    for name, kind, part in (("classifier", ClassNetwork, "first"), ("judge", JudgeNetwork, "second")):
        torch.manual_seed(seed)
        made.append((name, kind(), part))
    for name, network, part in made:
        images, labels = x[parts[part]], y[parts[part]]

        def loss(generator: torch.Generator, network=network, images=images, labels=labels) -> Tensor:
            i = torch.randint(len(images), (BATCH,), generator=generator)
            return F.cross_entropy(network(perturbed(images[i], generator)), labels[i], label_smoothing=0.02)

        trained(network, loss, STEPS["classifiers"], 2e-3, seed)
        file = out / "rewards" / "weights" / "digits" / f"{name}.safetensors"
        save(network, file)
        with torch.inference_mode():
            log_p = torch.log_softmax(network(x[held]), -1)
            right = (log_p.argmax(1) == y[held]).float().mean()
            logger.info("%s: accuracy on held-out images %.4f, log p %.4f", name, right, -F.nll_loss(log_p, y[held]))
            if isinstance(network, JudgeNetwork):
                seen = network.features(x[held]).double()
                each = [seen[y[held] == label] for label in range(CLASSES)]
                means = torch.stack([one.mean(0) for one in each])
                seconds = torch.stack([one.T @ one / len(one) for one in each])
                save(network, file, means=means.float(), seconds=seconds.float())


def realism(kind: str, x: Tensor, y: Tensor, out: Path, seed: int) -> None:
    """The discriminator of real images from coarse samples of a model; both weigh the same."""
    labels = y.repeat(SAMPLES)
    denoiser, canvas, free = Digits.load(out / "models" / "weights" / FOLDERS[kind]).prepare(labels)
    problem = Problem(denoiser, lambda tokens, rows: torch.zeros(len(tokens)), canvas, free, max_rows=256)
    # streams that no benchmark has
    drawn = sample(sampler_from_string(PLAIN), problem, seed=1_000_000 + seed).tokens
    real = torch.arange(len(x)) % 5 > 0  # the others say when it is told by heart
    made = real.repeat(SAMPLES)
    torch.manual_seed(seed)
    network = RealismNetwork()

    def loss(generator: torch.Generator, real: Tensor = real, made: Tensor = made) -> Tensor:
        one, other = (part.nonzero()[:, 0] for part in (real, made))
        i = one[torch.randint(len(one), (BATCH,), generator=generator)]
        j = other[torch.randint(len(other), (BATCH,), generator=generator)]
        return (F.softplus(-network(x[i], y[i])) + F.softplus(network(drawn[j], labels[j]))).mean() / 2

    trained(network, loss, STEPS["realism"], 1e-3, seed)
    with torch.inference_mode():
        yes, no = network(x[~real], y[~real]), network(drawn[~made], labels[~made])
        right = ((yes > 0).float().mean() + (no < 0).float().mean()) / 2
        entropy = (F.softplus(-yes).mean() + F.softplus(no).mean()) / 2
    logger.info("realism-%s: unseen images: right %.4f, loss %.4f (guessing 0.6931)", kind, right, entropy)
    save(network, out / "rewards" / "weights" / "digits" / f"realism-{kind}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder benchmarks, or another")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("masked", "uniform", "classifiers", "realism"), help="one part alone")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    data = load_digits()
    x, y, parts = torch.from_numpy(data.data).long(), torch.from_numpy(data.target).long(), split(data.target)
    both = np.sort(np.concatenate([parts["first"], parts["second"]]))
    logger.info("%s", {name: len(images) for name, images in parts.items()})
    for kind in FOLDERS:
        if options.only in (None, kind):
            model(kind, x[both], y[both], (x[parts["held"]], y[parts["held"]]), options.out, options.seed)
    if options.only in (None, "classifiers"):
        classifiers(x, y, parts, options.out, options.seed)
    if options.only in (None, "realism"):
        for kind in FOLDERS:
            realism(kind, x[both], y[both], options.out, options.seed)


if __name__ == "__main__":
    main()
