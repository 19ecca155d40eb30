"""Digits, offline, in a clone (python -m examples.digits): images of a class, steered and judged by classifiers.

The model draws digits of any class; the reward alone knows which one is wanted, so that with alpha = 1 the target is
Bayes' rule, p(x) p(class | x). At equal cost refinement gets what the best of a few drafts cannot.
The picture is digits.png.
"""

from __future__ import annotations

import torch

from benchmarks.gallery import gallery
from benchmarks.models.digits import Digits
from benchmarks.rewards.digits import DigitClass, Judge
from iterref import Problem, sample, sampler_from_string

ROWS = 20
BUDGET = (32, 256)  # NFE and reward calls an image


def main() -> None:
    """Prints the classifier's log-probability and what the judge recognises, and draws all images."""
    wanted = torch.arange(ROWS) % 10
    denoiser, canvas, free = Digits.load("masked").prepare([None] * ROWS)
    problem = Problem(denoiser, DigitClass(wanted), canvas, free, alpha=0.2)
    runs = {"before": sample(sampler_from_string("ancestral:steps=32"), problem)}
    for name in ("best_of_n", "iterref"):
        runs[name] = sample(sampler_from_string(name), problem, budget=BUDGET)
    judge = Judge()
    print(f"{'':12}{'log p':>8}{'judge':>8}   NFE and reward calls")
    for name, result in runs.items():
        right = float((judge.log_p(result.tokens).argmax(1) == wanted).double().mean())
        cost = f"{result.asked.nfe:g}, {result.asked.reward_calls:g}"
        print(f"{name:12}{float(result.rewards.mean()):8.2f}{right:8.0%}   {cost}")
    print(f"drawn in {gallery({name: run.tokens for name, run in runs.items()}, 'digits.png', side=8, levels=17)}")


if __name__ == "__main__":
    main()
