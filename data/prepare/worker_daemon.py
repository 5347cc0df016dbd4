"""Spark's daemon of Python workers, which imports what tasks need before it forks them.

A worker of Spark's own daemon imports everything for itself: Streaming brings torch, which takes seconds of each core
and hundreds of megabytes in each worker. Forked, they share both.
"""

import gc
import os
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec

# A process can be forked safely while it has one thread, and these two start others when they are imported: NumPy's
# linear algebra and Arrow's second allocator, neither of which a task of ours uses.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"

from pyspark import daemon, worker  # noqa: F401

from data.prepare import documents, lineage, shards, tokens  # noqa: F401

# Of Streaming its writer alone. The packages above that would bring what training needs, transformers among it, and the
# first task waits for all that is imported here: they are made known, and not executed.
for package in ("streaming", "streaming.base"):
    spec = find_spec(package)
    assert spec is not None
    sys.modules[package] = module_from_spec(spec)
import_module("streaming.base.format.mds.writer")

# A worker collects garbage after each task. All that was imported is none: to go through a million of its objects takes
# half a second, and copies the pages that they are on.
gc.freeze()

if __name__ == "__main__":
    daemon.manager()
