"""How the bundled models of the benchmarks were trained."""
