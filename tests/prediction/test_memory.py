"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from glacier_utils.prediction import memory

CODE = """
import sys
from glacier_utils.prediction import memory
import numpy as np

def resident():
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024

if sys.argv[1] == "set":
    memory.use_one_heap()
blocks = [np.ones(10 * 2**17) for _ in range(20)]
last = np.ones(2**13)  # above them in the heap, which cannot shrink
before = resident()
blocks.clear()
memory.release()
print(before - resident())
"""


def given_back(how: str) -> int:
    """Return how many of 200 MB, freed below something that stays, went back to the system."""
    command = [sys.executable, "-c", CODE, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_is_free_is_given_back():
    assert given_back("set") > 190


def test_elsewhere_nothing_is_touched(monkeypatch):
    monkeypatch.setattr(memory, "_library", None)  # other tests may have asked for it
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    memory.use_one_heap()
    assert memory._library is None
    memory.release(collect=True)  # in a process that asked for nothing, as here, it does nothing
