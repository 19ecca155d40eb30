"""Serving: a model behind OpenAI's API, for many clients at a time; the command is `iterref serve`.

    limits    what a request may ask for, and what the server gives it
    asked     the JSON of a request -> prompts, a seed and settings, or one sentence that refuses it
    offered   the rewards that a client may name
    batches   requests with equal settings in one run; each text is a function of (seed, prompt)
    wire      results as OpenAI's JSON, whole or as a stream;   metrics   counts, as Prometheus reads them
    app       routes, keys, time limits;   server   HTTP

A client names methods, rewards and numbers. It never names a file, an address or a module.
"""
