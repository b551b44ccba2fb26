"""Execution: jobs run in this process, in worker processes of this machine, or on a Ray cluster.

An executor knows nothing of experiments: a job is a function that can be pickled. Whatever becomes of it (it returns,
raises, hangs, takes its process with it), the executor says so and goes on with the next; it records nothing itself.
"""
