"""Freed memory given back to the system, in processes that map scenes and nothing else.

Without torch, so that it can be set before torch is imported.
"""

from __future__ import annotations

import ctypes
import gc
import platform

# Of glibc's malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD.
_SETTINGS = {-8: 1, -3: 2**25, -1: 2**26}
_library: ctypes.CDLL | None = None  # where ``use_one_heap`` was called


def use_one_heap() -> None:
    """Let all threads of this process share one heap, from now on.

    By default each thread gets a heap of its own, and a process that maps a Sentinel-2 tile holds
    some 200 MB in several of them that nothing uses. Now there is one heap, ``release`` gives back
    what is free in it, and blocks of 32 MB and more go back when they are freed. (Giving back all
    of 1 MB and more, which each pass of a network then takes anew, cost up to half of the rate.)

    To be called before threads are started and libraries loaded. Does nothing where the C library
    is not glibc.
    """
    global _library
    if platform.libc_ver()[0] == "glibc":
        _library = ctypes.CDLL(None)
        for name, value in _SETTINGS.items():
            _library.mallopt(name, value)


def release(*, collect: bool = False) -> None:
    """Give back what is free in the heap, in a process that called ``use_one_heap``.

    Takes some ms.

    Args:
        collect: collect Python's garbage first.
    """
    if _library is not None:
        if collect:
            gc.collect()
        _library.malloc_trim(0)
