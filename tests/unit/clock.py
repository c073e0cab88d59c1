"""CPU time of a job, for guards against slips of an order of magnitude."""

import time


def least(job, times=5):
    """The least of so many runs. [s]"""
    best = float("inf")
    for _ in range(times):
        began = time.process_time()
        job()
        best = min(best, time.process_time() - began)
    return best
