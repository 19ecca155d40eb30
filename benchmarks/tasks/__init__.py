"""The benchmarks' tasks, each a file with a function `task(**options)` (see `benchmarks.frame.plan`)."""
