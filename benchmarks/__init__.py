"""Scripts that measure and train, run from the root of the repository as modules: `python -m benchmarks.news`.

    bias, news, text_defaults, results    what the documentation's tables are made of
    models, rewards                       how the bundled networks were trained
"""
