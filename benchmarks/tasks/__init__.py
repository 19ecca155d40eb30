"""The benchmarks' tasks, each a file with a function `task(**options)` (see `iterref.bench.task`)."""
