"""Small variants of every method, for the tests that hold all methods to the same promises."""

from __future__ import annotations

from dataclasses import fields

from iterref.samplers.base import KERNELS
from iterref.registry import get

SMALL = {"steps": 2, "moves": 2, "tries": 2, "n": 2, "particles": 2}

# Options written on top of the small ones, under both noises.
VARIANTS: dict[str, list[str]] = {
    "ancestral": ["order=bounded,bound=0.5"],
    "best_of_n": ["order=bounded,bound=0.9"],
    "importance": ["n=3,objective=maximise", "order=bounded,bound=0.9"],
    "iterref": [
        "early=0.7,moves=3",
        "guided=false,early=0.5,late=0.7",
        "blocks=2,early=0.5",
        "spacing=0,span=0.5",
        "denoise_steps=2,early=0.5",
        "span=0.5+1+1.0,moves=3",
        "objective=maximise,anneal=0.5",
        "tries=1",
        *(f"kernel={kernel}" for kernel in KERNELS),
        "kernel=independent,balance=0.5,early=0.5",
        "kernel=published,denoise_steps=2,early=0.5",
        "kernel=independent,denoise_steps=2,span=1",
        "kernel=trajectory,span=2+0.3",
        "width=3",
        "width=2,guided=false,early=0.5",
        "width=2,kernel=trajectory",
        "adapt=true,moves=4",
        "adapt=true,early=0.5,denoise_steps=2,spacing=0",
        "adapt=true,width=2,kernel=independent,spacing=0",
    ],
    "particle_gibbs": [
        "steps=4,guesses=2",
        "steps=4,every=2,potential=max,objective=maximise",
        "steps=3,fresh=true,guesses=2,potential=sum",
        "steps=3,fresh=true,ancestors=true",
        "steps=3,sweeps=1,particles=3",
        "steps=1,guesses=2",
        "order=bounded,bound=0.9,steps=3",
    ],
    "remdm": [
        "schedule=cap,eta=0.4,steps=4",
        "schedule=loop,eta=0.3,steps=8",
        "schedule=conf,eta=1.0,steps=5",
        "schedule=rescale,eta=0.7,steps=4",
        "steps=1",
    ],
    "select_refine": [
        "n=3,keep=2,loops=2,denoise_steps=2,span=0.5",
        "loops=0",
        "span=0.3+1.0+1,denoise_steps=1",
        "order=bounded,bound=0.9,denoise_steps=2",
    ],
    "smc": [
        "steps=4,guesses=2,particles=3",
        "steps=5,every=2,potential=max,resampling=multinomial",
        "steps=4,potential=sum,resampling=stratified,threshold=1.0",
        "steps=3,fresh=true,guesses=2,resampling=residual",
        "steps=1,guesses=2",
        "steps=1,fresh=true,objective=maximise",
        "steps=3,particles=1,threshold=0.0",
        "order=bounded,bound=0.9,steps=3",
    ],
    "svdd": [
        "value=guess,steps=3",
        "guesses=2,steps=3",
        "greedy=true",
        "objective=maximise,steps=1",
        "tries=1,steps=3",
        "value=guess,order=bounded,bound=0.9,objective=maximise",
    ],
    "tempering": [
        "width=2,ratio=4.0",
        "width=3,guided=false",
        "spacing=0,span=0.5+1.0,blocks=2",
        "moves=5,objective=maximise,blocks=1",
        "moves=0",
    ],
    "waste_free": [
        "chains=2",
        "chains=3,steps=3,blocks=2,spacing=0,resampling=residual",
        "chains=1,moves=4,tries=1,blocks=1,cooling=geometric",
        "chains=2,span=1.0,objective=maximise,steps=1",
    ],
}

# Under absorbing noise alone.
MASKED: dict[str, list[str]] = {
    "ancestral": [
        "order=confidence",
        "order=margin,steps=3",
        "order=entropy,block=2",
        "order=left",
        "order=bounded,bound=0.5,block=2",
        "block=2,steps=3",
    ],
    "best_of_n": ["order=confidence", "order=margin,block=2,steps=3", "block=1"],
    "iterref": [
        "kernel=trajectory,order=confidence",
        "kernel=trajectory,order=margin,block=2,steps=3,span=2",
        "kernel=trajectory,order=bounded,bound=0.5",
        "kernel=trajectory,block=2,width=2",
        "guided=false,order=confidence,early=0.5",
        "guided=false,order=entropy,block=2",
        "guided=false,order=bounded,early=0.5",
    ],
    "metropolis": ["order=confidence", "order=left,block=2", "order=bounded,bound=0.5", "order=margin"],
    "importance": ["order=confidence"],
    "particle_gibbs": ["order=confidence,steps=3", "order=margin,block=2,steps=4,fresh=true", "order=left,guesses=2"],
    "select_refine": ["order=confidence,denoise_steps=2", "order=entropy,block=2,keep=2", "order=left,denoise_steps=1"],
    "smc": ["order=confidence,steps=3", "order=margin,block=2,steps=4,fresh=true", "order=left,steps=4,guesses=2"],
    "svdd": ["order=confidence,steps=3", "value=guess,order=margin,block=2,steps=3", "order=left", "order=bounded"],
    "tempering": ["guided=false,order=confidence"],
}


def small(name: str, written: str = "") -> str:
    """A method with small options, and some written on top."""
    given = dict(part.split("=", 1) for part in written.split(",") if part)
    known = {f.name for f in fields(get(name))}
    options = {option: str(value) for option, value in SMALL.items() if option in known} | given
    return f"{name}:" + ",".join(f"{option}={value}" for option, value in options.items())
