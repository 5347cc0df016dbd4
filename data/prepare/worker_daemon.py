"""Spark's daemon of Python workers, which imports what tasks need before it forks them.

A worker of Spark's own daemon imports everything for itself: Streaming brings torch, which takes seconds of each core
and hundreds of megabytes in each worker. Forked, they share both.
"""

import os

# A process can be forked safely while it has one thread, and these two start others when they are imported: NumPy's
# linear algebra and Arrow's second allocator, neither of which a task of ours uses.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"

import streaming  # noqa: F401
from pyspark import daemon, worker  # noqa: F401

from data.prepare import documents, lineage, shards, tokens  # noqa: F401

if __name__ == "__main__":
    daemon.manager()
