"""Maps in the making: strip after strip goes into files of plain bytes, which become the rasters.

They lie in a folder beside the target, from where an interrupted run goes on.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import rasterio
from tqdm import tqdm

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.files import write_json
from glacier_utils.metrics import classify
from glacier_utils.prediction import memory
from glacier_utils.prediction.mapper import Block, Plan
from glacier_utils.prediction.stac import CLASSES, SCALE
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import CACHE, write_raster

CLASS_COLOURMAP = {value: (*bytes.fromhex(colour), 255) for value, _, _, colour in CLASSES}
RASTERS = ("probability", "class", "spread")
"""Kinds of maps; the last is of ensembles alone."""
_ROWS_WRITTEN = 128  # at a time
# Bytes per pixel of a map: as plain bytes, as a plain raster, and as file with overviews.
_BYTES_PER_PIXEL = 1 + 1 + 4 / 3
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Unfinished:
    """The folder of a map in the making: bytes of its rasters, and how far they are.

    It stays where the work breaks off, and goes when it is finished. Used as a context; the folder
    lies beside the files.

    Args:
        files: kind -> file that is made.
        inputs: hash of all that the map is made from: work on others begins anew.
        shape: rows and columns of the scene.

    Raises:
        GlacierError: on entering or in its methods, a disk without space.
    """

    def __init__(self, files: Mapping[str, Path], inputs: str, shape: tuple[int, int]) -> None:
        target = files["probability"]
        self.folder = target.with_name(f".{target.stem}.partial")
        self.shape = shape
        self._inputs = inputs
        self._target = target
        self._files = {kind: self.folder / f"{kind}.raw" for kind in RASTERS if kind in files}

    def __enter__(self) -> Unfinished:
        with self._full_disk():
            self.finished = self._resume()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _full_disk(self) -> Iterator[None]:
        """Say in a line that the disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            raise GlacierError(self._no_space()) from error

    def fill(self, plan: Plan, progress: bool) -> None:
        """Map what is missing; each block is on the disk before it counts as finished."""
        bar = tqdm(
            total=len(plan), initial=self.finished, desc="map", unit="strip", disable=not progress
        )
        with self._full_disk(), bar, ThreadPoolExecutor(1, "write") as pool:
            writing: Future | None = None
            for number, block in enumerate(plan.blocks(self.finished), start=self.finished + 1):
                if writing is not None:
                    writing.result()
                writing = pool.submit(self._write, block, plan.mapper.threshold, number)
                del block  # or it would lie in memory until the next is finished
                bar.update()
            if writing is not None:
                writing.result()
        memory.release()

    def finish(self, files: Mapping[str, Path], grid: Grid, tags: Mapping[str, str]) -> None:
        """Turn the bytes into GeoTIFFs, side by side."""
        fine, classes = {"scale": SCALE, "average": True}, {"colormap": CLASS_COLOURMAP}
        layers: dict[str, dict[str, Any]] = {
            kind: classes if kind == "class" else fine for kind in self._files
        }
        # Around both: the one that is ready first would lift the limit for the other.
        limit = rasterio.Env(GDAL_CACHEMAX=CACHE)
        with self._full_disk(), limit, ThreadPoolExecutor(len(layers)) as pool:
            made = [
                pool.submit(
                    write_raster, files[kind], self._files[kind], grid,
                    nodata=UNKNOWN, descriptions=[kind], tags=tags, **layer,
                )
                for kind, layer in layers.items()
            ]  # fmt: skip
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
        if free < self._needed():
            shutil.rmtree(self.folder, ignore_errors=True)
            raise GlacierError(self._no_space())
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
            for start in range(0, block.maps.shape[1], _ROWS_WRITTEN):
                parts = block.maps[:, start : start + _ROWS_WRITTEN]
                maps = {"class": classify(parts[0], threshold)}
                for kind, part in zip(("probability", "spread"), parts, strict=False):
                    valid = ~np.isnan(part)
                    steps = np.rint(np.where(valid, part, 0) / np.float32(SCALE))
                    maps[kind] = np.where(valid, steps, UNKNOWN).astype(np.uint8)
                for kind, values in maps.items():
                    self._put(files[kind], values, block.row + start, block.col)
        write_json(self.folder / "state.json", {"inputs": self._inputs, "blocks": number})

    def _needed(self) -> float:
        return len(self._files) * _BYTES_PER_PIXEL * self.shape[0] * self.shape[1]

    def _no_space(self) -> str:
        return (
            f"{self._target.parent}: no space left on this disk; the map needs about "
            f"{self._needed() / 1e6:.0f} MB while it is made. Free some and run again: it goes on "
            "where it stopped"
        )

    def _put(self, file: BinaryIO, values: np.ndarray, row: int, col: int) -> None:
        for number, line in enumerate(values, start=row):
            file.seek(number * self.shape[1] + col)
            file.write(line.tobytes())
