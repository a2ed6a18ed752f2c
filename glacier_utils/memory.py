"""How the C library hands memory back, for processes that map scenes and nothing else."""

from __future__ import annotations

import ctypes
import sys

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE = 2**20


def return_large_blocks() -> bool:
    """Let blocks of 1 MB and more go back to the system when they are freed.

    By default glibc keeps what was freed, up to blocks of 32 MB, and a process that maps scenes
    holds some 200 MB that nothing uses. Taking them anew cost 7 % of the time where it was tried.

    Returns:
        Whether it was set; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
        return bool(library.mallopt(_MMAP_THRESHOLD, _LARGE))
    except (OSError, AttributeError):
        return False
