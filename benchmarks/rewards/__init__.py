"""Rewards and judges of the benchmarks, and the resumable scripts that train the bundled reward models."""
