"""Small variants of every method, for the tests that hold all methods to the same promises."""

from __future__ import annotations

from dataclasses import fields

from iterref.registry import get

SMALL = {"steps": 2, "moves": 2, "tries": 2, "n": 2, "particles": 2, "rollouts": 2}

# Options written on top of the small ones, under both noises.
VARIANTS: dict[str, list[str]] = {
    "ancestral": ["order=bounded,bound=0.5"],
    "auto": ["nfe=20", "nfe=60,calls=200", "total=90,price=0.5", "nfe=24,race=0.9,steps=4"],
    "beam": ["width=2,chains=2", "guesses=4,probes=0", "moves=2,span=0.5+1.0,guesses=3", "sure=0.5,block_length=2"],
    "best_of_n": ["order=bounded,bound=0.9"],
    "growth": [
        "candidates=3,tries=2",
        "value=partial,steps=3",
        "candidates=2,chains=2,moves=3",
        "objective=maximise,anneal=0.5,span_steps=1",
    ],
    "hex": ["block_lengths=0+2,n=3,steps=3"],
    "importance": ["n=3,objective=maximise", "order=bounded,bound=0.9"],
    "iterref": [
        "early=0.7,moves=3",
        "reward_draft=false,early=0.5",
        "decisions=2,early=0.5",
        "spacing=0,span=0.5",
        "denoise_steps=2,early=0.5",
        "span=0.5+0.5+1.0,moves=3",
        "span_steps=1+2,moves=3",
        "objective=maximise,anneal=0.5",
        "tries=1",
        "chains=3",
        "chains=2,reward_draft=false,early=0.5",
        "adapt=true,moves=4",
        "adapt=true,early=0.5,denoise_steps=2,spacing=0",
    ],
    "mtm": [
        "balance=0.5,early=0.5",
        "denoise_steps=2,span_steps=1",
        "adapt=true,chains=2,spacing=0",
        "reward_draft=false,objective=maximise",
    ],
    "particle_gibbs": [
        "steps=4,x0_samples=2",
        "steps=4,every=2,potential=max,objective=maximise",
        "steps=3,fresh=true,x0_samples=2,potential=sum",
        "steps=3,fresh=true,ancestors=true",
        "steps=3,sweeps=1,particles=3",
        "steps=1,x0_samples=2",
        "order=bounded,bound=0.9,steps=3",
    ],
    "power": ["exponent=4.0,tries=1", "chains=2,span=1.0", "exponent=0.5,steps=3,span_steps=1+2"],
    "published": ["denoise_steps=2,early=0.5", "moves=3,early=1.0", "objective=maximise,span=0.5+1.0"],
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
        "span=0.3+1.0+0.5,denoise_steps=1",
        "order=bounded,bound=0.9,denoise_steps=2",
    ],
    "self_rewarding": ["steps=4,particles=3,threshold=1.0", "exponent=4.0,resampling=multinomial,steps=3"],
    "smc": [
        "steps=4,x0_samples=2,particles=3",
        "steps=5,every=2,potential=max,resampling=multinomial",
        "steps=4,potential=sum,resampling=stratified,threshold=1.0",
        "steps=3,fresh=true,x0_samples=2,resampling=residual",
        "steps=1,x0_samples=2",
        "steps=1,fresh=true,objective=maximise",
        "steps=4,value=mode,particles=3",
        "steps=4,value=partial,every=2",
        "steps=3,particles=1,threshold=0.0",
        "order=bounded,bound=0.9,steps=3",
    ],
    "svdd": [
        "value=sample,steps=3",
        "value=posterior",
        "value=posterior,x0_samples=2,steps=3",
        "value=posterior,objective=maximise",
        "value=partial,steps=4",
        "objective=maximise",
        "objective=maximise,steps=1",
        "value=posterior,tries=1,steps=3",
        "value=sample,order=bounded,bound=0.9,objective=maximise",
    ],
    "tempering": [
        "chains=2,ratio=4.0",
        "chains=3,reward_draft=false",
        "spacing=0,span=0.5+1.0,decisions=2",
        "moves=5,objective=maximise,decisions=1",
        "moves=0",
    ],
    "trajectory": ["span=0.5", "span_steps=2+1", "span=1.0+0.3", "chains=2", "objective=maximise,anneal=0.5"],
    "unmaskfork": ["steps=4,rollouts=4,levels=2", "steps=3,levels=3,branches=6,rollouts=9"],
    "vgb": [
        "steps=3,moves=9",
        "value=partial,steps=4,moves=7",
        "objective=maximise,candidates=3,order=bounded,bound=0.9",
    ],
    "waste_free": [
        "chains=2",
        "chains=3,steps=3,decisions=2,spacing=0,resampling=residual",
        "chains=1,moves=4,tries=1,decisions=1,cooling=geometric",
        "chains=2,span=1.0,objective=maximise,steps=1",
    ],
}

# Under absorbing noise alone.
MASKED: dict[str, list[str]] = {
    "ancestral": [
        "order=confidence",
        "order=margin,steps=3",
        "order=entropy,block_length=2",
        "order=left",
        "order=bounded,bound=0.5,block_length=2",
        "block_length=2,steps=3",
    ],
    "auto": ["nfe=20", "nfe=60,calls=200", "total=90,price=0.5", "nfe=24,race=0.9,steps=4"],
    "beam": ["width=2,chains=2", "guesses=4,probes=0", "moves=2,span=0.5+1.0,guesses=3", "sure=0.5,block_length=2"],
    "best_of_n": ["order=confidence", "order=margin,block_length=2,steps=3", "block_length=1"],
    "iterref": [
        "reward_draft=false,order=confidence,early=0.5",
        "reward_draft=false,order=entropy,block_length=2",
        "reward_draft=false,order=bounded,early=0.5",
    ],
    "metropolis": ["order=confidence", "order=left,block_length=2", "order=bounded,bound=0.5", "order=margin"],
    "growth": [
        "candidates=3,tries=2",
        "value=partial,steps=3",
        "candidates=2,chains=2,moves=3",
        "objective=maximise,anneal=0.5,span_steps=1",
    ],
    "hex": ["order=margin", "order=left,block_lengths=1+3", "order=random"],
    "importance": ["order=confidence"],
    "particle_gibbs": [
        "order=confidence,steps=3",
        "order=margin,block_length=2,steps=4,fresh=true",
        "order=left,x0_samples=2",
    ],
    "power": ["order=confidence", "order=left,block_length=2"],
    "self_rewarding": ["order=confidence", "order=left,steps=3"],
    "vgb": ["order=confidence,steps=3,moves=6", "order=margin,block_length=2,steps=3,moves=4"],
    "select_refine": [
        "order=confidence,denoise_steps=2",
        "order=entropy,block_length=2,keep=2",
        "order=left,denoise_steps=1",
    ],
    "smc": [
        "order=confidence,steps=3",
        "order=margin,block_length=2,steps=4,fresh=true",
        "order=left,steps=4,x0_samples=2",
    ],
    "svdd": [
        "value=posterior,order=confidence,steps=3",
        "order=confidence,steps=3",
        "value=sample,order=margin,block_length=2,steps=3",
        "order=left",
        "order=bounded",
    ],
    "tempering": ["reward_draft=false,order=confidence"],
    "trajectory": [
        "order=confidence",
        "order=margin,block_length=2,steps=3,span_steps=2",
        "order=bounded,bound=0.5",
        "block_length=2,chains=2",
    ],
}


def small(name: str, written: str = "") -> str:
    """A method with small options, and some written on top."""
    given = dict(part.split("=", 1) for part in written.split(",") if part)
    known = {f.name for f in fields(get(name))}
    options = {option: str(value) for option, value in SMALL.items() if option in known} | given
    return f"{name}:" + ",".join(f"{option}={value}" for option, value in options.items())
