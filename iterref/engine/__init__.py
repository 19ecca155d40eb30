"""Engine: texts for many prompts by several workers, of which nothing finished is lost and nothing is made twice.

A worker computes (`texts`) and the driver writes (`drive`): whatever dies, what is missing is the jobs without a part.
"""
