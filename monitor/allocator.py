"""What the C library does with memory that is freed.

A body is held several times on its way through the owner, by whichever thread serves it, and each thread has a heap of its own
that only shrinks at its end. glibc begins by giving large blocks a mapping each, and learns from the first that is freed to take
the next from the heap, up to 32 MiB: after a minute of bodies of 1 MiB it held 130 MiB for nobody.
"""

from __future__ import annotations

import ctypes

LARGE_BYTES = 256 * 2**10
KEPT_BYTES = 16 * 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def return_large_blocks() -> bool:
    """Have every block from `LARGE_BYTES` on go back to the system once it is freed; False where the C library has no such word.

    For a process of many threads that moves bytes about. Not for one that computes: it would ask for each array anew.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl, macOS
        return False
    # Setting one stops glibc from learning the other, which would be 128 KiB: asked for and given back with every request.
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
