"""Benchmarks: tasks whose runs are made once, measured, remembered in a CSV file and reported."""
