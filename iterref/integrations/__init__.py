"""Integrations: this library inside of others' programs, one program a file.

    lm_eval     the model type `iterref` of lm-evaluation-harness
"""
