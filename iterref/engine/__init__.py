"""Engine: texts for many prompts by several workers, of which nothing finished is lost and nothing is made twice.

    jobs      the rows of a run in micro-batches; what fails is tried again, halved, and given up row by row
    texts     what a worker does: `iterref.generate` on the rows of a job, under their own identities
    local     K processes with one replica each;   cluster: Ray Data's pool of actors
    group     all processes of a launcher as one worker
    results   the folder: one part a job, written whole;   manifest: what the run is, to refuse another
    drive     hands jobs to an engine, writes what comes back, and sets rows aside that are given up

A worker computes and the driver writes: whatever dies, what is missing is the set of jobs without a part.
"""
