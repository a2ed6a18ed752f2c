"""A map in the making: what is finished lies on the disk, from where an interrupted run goes on."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import rasterio
from tqdm import tqdm

from glacier_utils import memory
from glacier_utils.cogs import CACHE, Layer, cog_from_bytes
from glacier_utils.errors import GlacierError
from glacier_utils.files import write_json
from glacier_utils.grids import Grid
from glacier_utils.metrics import UNKNOWN, classify
from glacier_utils.prediction import Block, Plan
from glacier_utils.stac import CLASSES, SCALE

CLASS_COLOURMAP = {value: (*bytes.fromhex(colour), 255) for value, _, _, colour in CLASSES}
_ROWS = 128  # written at a time
# Bytes a pixel of the two maps while they are made and turned into files; overviews add a third.
_BYTES_A_PIXEL = 2 * (1 + 1 / 3 + 1)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Unfinished:
    """The folder of a map in the making: bytes of probability and class, and how far they are.

    It stays where the work breaks off, and goes when it is finished. Used as a context; the folder
    lies beside ``target``.

    Args:
        target: one of the files that are made.
        inputs: hash of all that the map is made from: work on others begins anew.
        shape: rows and columns of the scene.

    Raises:
        GlacierError: on entering or in its methods, a disk without room.
    """

    def __init__(self, target: Path, inputs: str, shape: tuple[int, int]) -> None:
        self.folder = target.with_name(f".{target.stem}.partial")
        self.shape = shape
        self._inputs = inputs
        self._target = target
        self._files = {kind: self.folder / f"{kind}.raw" for kind in ("probability", "class")}

    def __enter__(self) -> Unfinished:
        with self._room():
            self.finished = self._resume()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Say in a line that the disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise GlacierError(_no_room(self._target, self.shape)) from error

    def fill(self, plan: Plan, progress: bool) -> None:
        """Map what is missing; each block is on the disk before it counts as finished."""
        bar = tqdm(
            total=len(plan), initial=self.finished, desc="map", unit="strip", disable=not progress
        )
        with self._room(), bar, ThreadPoolExecutor(1, "write") as pool:
            writing: Future | None = None
            for number, block in enumerate(plan.blocks(self.finished), start=self.finished + 1):
                if writing is not None:
                    writing.result()
                writing = pool.submit(self._write, block, plan.mapper.threshold, number)
                del block  # or it would lie in memory until the next is finished
                bar.update()
            if writing is not None:
                writing.result()
        memory.trim()

    def finish(self, files: Mapping[str, Path], grid: Grid, tags: Mapping[str, str]) -> None:
        """Turn the bytes into the two GeoTIFFs, ``probability`` and ``class``, side by side."""
        layers = {
            "probability": Layer("probability", scale=SCALE, average=True, tags=tags),
            "class": Layer("class", colours=CLASS_COLOURMAP, tags=tags),
        }
        # Around both: the one that is ready first would lift the limit for the other.
        limit = rasterio.Env(GDAL_CACHEMAX=CACHE)
        with self._room(), limit, ThreadPoolExecutor(len(layers)) as pool:
            made = [
                pool.submit(cog_from_bytes, self._files[kind], files[kind], grid, layer)
                for kind, layer in layers.items()
            ]
            for one in made:
                one.result()

    def _resume(self) -> int:
        """Return how many blocks are finished; begin anew where they are of other inputs."""
        try:
            state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            size = self.shape[0] * self.shape[1]
            if state["inputs"] == self._inputs and all(
                path.stat().st_size == size for path in self._files.values()
            ):
                return int(state["blocks"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        free = shutil.disk_usage(self.folder).free
        if free < _BYTES_A_PIXEL * self.shape[0] * self.shape[1]:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise GlacierError(_no_room(self._target, self.shape))
        for path in self._files.values():
            with open(path, "wb") as file:
                file.truncate(self.shape[0] * self.shape[1])
        return 0

    def _write(self, block: Block, threshold: float, number: int) -> None:
        """Write a block a few rows at a time: its numbers take several copies on their way."""
        with ExitStack() as stack:
            files = {
                kind: stack.enter_context(open(path, "r+b")) for kind, path in self._files.items()
            }
            for start in range(0, len(block.probability), _ROWS):
                part = block.probability[start : start + _ROWS]
                valid = ~np.isnan(part)
                steps = np.rint(np.where(valid, part, 0) / np.float32(SCALE))
                maps = {
                    "probability": np.where(valid, steps, UNKNOWN).astype(np.uint8),
                    "class": classify(part, threshold),
                }
                for kind, values in maps.items():
                    self._put(files[kind], values, block.row + start, block.col)
        write_json(self.folder / "state.json", {"inputs": self._inputs, "blocks": number})

    def _put(self, file: BinaryIO, values: np.ndarray, row: int, col: int) -> None:
        width = self.shape[1]
        lines = [values] if values.shape[1] == width else values
        for number, line in enumerate(lines):
            file.seek((row + number) * width + col)
            file.write(line.tobytes())


def _no_room(target: Path, shape: tuple[int, int]) -> str:
    needed = _BYTES_A_PIXEL * shape[0] * shape[1] / 1e6
    return (
        f"{target.parent}: no room on this disk; the map needs about {needed:.0f} MB while it is "
        "made. Make room and run again: it goes on where it stopped"
    )
