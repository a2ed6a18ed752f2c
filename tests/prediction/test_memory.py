"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
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
    assert memory.use_one_heap()
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
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.use_one_heap()
    assert memory._library is None
    memory.release(collect=True)  # in a process that asked for nothing, as here, it does nothing


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_patches_read_from_a_file_do_not_stay_in_memory(tmp_path):
    def mapped_mb() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("RssFile"))
        return int(line.split()[1]) / 1024

    from glacier_utils.training.module import Patches

    shape = {"images": (200, 4, 128, 128), "labels": (200, 128, 128)}
    for name, dtype in (("images", np.float32), ("labels", np.uint8)):
        np.save(tmp_path / f"{name}.npy", np.ones(shape[name], dtype))
    arrays = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in shape}
    patches = Patches(SimpleNamespace(**arrays))
    before = mapped_mb()
    for start in range(0, 200, 10):
        images, labels = patches[np.arange(start, start + 10)]
        assert images.min() == labels.min() == 1
    assert mapped_mb() - before < 5  # of 53 MB
    assert arrays["images"][100].sum() > before  # which reads the file again: it is still mapped
    assert mapped_mb() - before > 0.2
