"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import sys
from glacier_utils.memory import return_large_blocks
import numpy as np

def resident():
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024

if sys.argv[1] == "set":
    assert return_large_blocks()
# glibc keeps blocks of up to 32 MB once one of that size was freed.
first = np.ones(31 * 2**17)
del first
blocks = [np.ones(10 * 2**17) for _ in range(20)]
last = np.ones(2**16)
before = resident()
blocks.clear()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_blocks_are_given_back():
    def given_back(how: str) -> int:
        command = [sys.executable, "-c", CODE, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert given_back("set") > 190
