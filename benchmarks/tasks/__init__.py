"""Tasks: a file with a function `task(**options)` is measured by `benchmarks.frame`, one with a `command` runs that."""
