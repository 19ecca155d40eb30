"""The scripts that train the bundled reward models, resumable: `python -m benchmarks.rewards.sentiment --help`."""
