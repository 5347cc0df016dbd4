"""A stand-in for torch while MegaBlocks' sdist is built, and only then (see the Makefile).

MegaBlocks' setup.py imports torch to decide whether to compile CUDA code, which does not compile with CUDA 13 and which
we do not need. Told that there is no CUDA, it installs as pure Python in a second.
"""

import sys

__version__ = "2.11.0"
CUDA_HOME = None
BuildExtension = CUDAExtension = None


def is_available() -> bool:
    return False


cuda = utils = cpp_extension = sys.modules[__name__]
for name in ("cuda", "utils", "utils.cpp_extension"):
    sys.modules[f"{__name__}.{name}"] = sys.modules[__name__]
