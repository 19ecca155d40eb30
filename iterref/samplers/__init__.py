"""Samplers, one a file; the file's name is the sampler's public name (`iterref.registry`).

    iterref.samplers.IterRef(tries=16)          "iterref:tries=16"
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iterref import lazy

if TYPE_CHECKING:
    from iterref.samplers.ancestral import Ancestral
    from iterref.samplers.auto import Auto
    from iterref.samplers.base import Sampler
    from iterref.samplers.beam import Beam
    from iterref.samplers.best_of_n import BestOfN
    from iterref.samplers.growth import Growth
    from iterref.samplers.hex import HEX
    from iterref.samplers.importance import Importance
    from iterref.samplers.iterref import IterRef
    from iterref.samplers.metropolis import Metropolis
    from iterref.samplers.mtm import MTM
    from iterref.samplers.particle_gibbs import ParticleGibbs
    from iterref.samplers.power import Power
    from iterref.samplers.published import Published
    from iterref.samplers.remdm import ReMDM
    from iterref.samplers.select_refine import SelectRefine
    from iterref.samplers.self_rewarding import SelfRewarding
    from iterref.samplers.smc import SMC
    from iterref.samplers.svdd import SVDD
    from iterref.samplers.tempering import Tempering
    from iterref.samplers.trajectory import Trajectory
    from iterref.samplers.unmaskfork import UnMaskFork
    from iterref.samplers.vgb import VGB
    from iterref.samplers.waste_free import WasteFree

__all__ = [
    "Ancestral", "Auto", "Beam", "BestOfN", "Growth", "HEX", "Importance", "IterRef", "MTM", "Metropolis",
    "ParticleGibbs", "Power", "Published", "ReMDM", "SMC", "SVDD", "Sampler", "SelectRefine", "SelfRewarding",
    "Tempering", "Trajectory", "UnMaskFork", "VGB", "WasteFree",
]  # fmt: skip

lazy.attach(__name__)
