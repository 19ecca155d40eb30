"""Benchmarks, run from a clone of the repository: `python -m benchmarks --help` lists the tasks.

    tasks             one file a task, found by its name
    frame             what they share: budgets, runs kept in CSV files, reports
    models, rewards   models and judges that only benchmarks use, and how the bundled ones were trained
"""
