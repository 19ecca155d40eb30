"""Models that the benchmarks alone use, with their weights, and the scripts that trained them."""
