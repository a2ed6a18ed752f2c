"""Traps: inputs as people really have them, each run through the commands, its outcome tabled.

A trap is a test that returns what happened, in one of four words (``told``). `make traps` runs them
and writes ``TABLE.md``; ``test_table.py`` says where that is not up to date.

    right    exit status 0, and the result is what it would be without the trap
    warned   exit status 0, the result is as good as can be, and a line says what to look at
    refused  exit status 2, one line that names the file and the remedy, nothing half-written
    wrong    anything else: never allowed
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.features import shapes
from rasterio.transform import from_origin
from shapely.geometry import shape

CRS, AT = "EPSG:32623", from_origin(500_000, 6_780_000, 10, 10)
BANDS = ("red", "green", "blue", "nir")
ROCK = np.array([0.16, 0.15, 0.12, 0.17])
SNOW = np.array([0.80, 0.80, 0.78, 0.66])
WATER = np.array([0.03, 0.04, 0.05, 0.01])


@dataclass(frozen=True)
class Trap:
    """A row of the table."""

    kind: int
    trap: str
    expected: str


TRAPS: dict[str, Trap] = {}
HAPPENED: dict[str, str] = {}
KINDS = {
    1: "bands by name", 2: "values", 3: "validity", 4: "vector layers and columns",
    5: "labels of one class", 6: "which mask belongs to which image", 7: "dates from names",
    8: "area and length", 9: "several images where one is meant", 10: "CRS equality",
    11: "what lies behind a file", 12: "lost georeference", 13: "small training grounds",
    14: "dates by area", 15: "tracebacks", 16: "refusals of what is fine",
    17: "tiles that share no lattice",
}  # fmt: skip


def trap(kind: int, text: str, expected: str) -> Callable[[Callable], Callable]:
    """Make a test a trap.

    Args:
        kind: number of the kind of trap, of ``KINDS``.
        text: what is given, in words; each trap's its own.
        expected: "right", "warned" or "refused".

    The test returns the outcome (``told``), which must be the expected one.
    """

    def mark(test: Callable) -> Callable:
        assert kind in KINDS
        assert expected in ("right", "warned", "refused")
        key = f"{Path(test.__code__.co_filename).stem}::{test.__name__}"
        TRAPS[key] = Trap(kind, text, expected)

        @wraps(test)
        def run(*arguments: Any, **keywords: Any) -> None:
            HAPPENED[key] = test(*arguments, **keywords)
            assert HAPPENED[key] == expected, f"{text}: {HAPPENED[key]}, not {expected}"

        return run

    return mark


@dataclass(frozen=True)
class Told:
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Everything, with runs of white space as one blank, as wrapped tables are compared."""
        return " ".join(f"{self.out} {self.err}".split())


Command = Callable[..., Told]  # of the fixtures ``glacier`` and ``predict``
Outcome = Callable[..., str]  # of the fixture ``predicted``


def told(result: Told, *, says: str = "", right: bool = True) -> str:
    """Return the outcome of a command in a word.

    Args:
        result: of ``glacier`` or ``predict`` (fixtures).
        says: pattern (regular expression, any case) that a warning or refusal must hold: the file,
            what is wrong, the remedy. Without it every word that looks like a warning counts
            against "right".
        right: whether the result is what it should be.
    """
    found = bool(says) and re.search(says, result.text, re.I) is not None
    if "Traceback" in result.text:
        return "wrong: a traceback"
    if result.status == 2:
        return "refused" if found else f"wrong: refused with {result.text[-300:]!r}"
    if result.status or not right:
        return f"wrong: status {result.status}, result {'right' if right else 'wrong'}"
    if says:
        return "warned" if found else f"wrong: no word of it in {result.text[-300:]!r}"
    return "right"


def scene(size: int = 256, *, lake: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return reflectance float32 [red, green, blue, nir] and truth uint8 of a disc of snow on rock.

    With a lake in a corner, as dark as water is, so that offsets can be judged.
    """
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:size, :size]
    ice = np.hypot(row - size / 2, col - size / 2) < size / 4
    image = np.where(ice, SNOW[:, None, None], ROCK[:, None, None])
    if lake:
        image = np.where((row > size * 0.8) & (col > size * 0.8), WATER[:, None, None], image)
    image = image * rng.normal(1, 0.03, image.shape)
    return image.astype(np.float32), ice.astype(np.uint8)


def numbers(reflectance: np.ndarray, offset: int = 1000) -> np.ndarray:
    """Return stored numbers as Sentinel-2 has them since 2022 (before: ``offset=0``)."""
    return np.clip(np.rint(reflectance * 10_000 + offset), 1, 65_534).astype(np.uint16)


def write(
    path: Path,
    array: np.ndarray,
    transform: Affine | None = AT,
    crs: str | None = CRS,
    nodata: float | None = 0,
    names: tuple[str, ...] = (),
    colours: Sequence[str] = (),
    **profile: Any,
) -> Path:
    """Write a raster, [band, row, col] or [row, col]; ``names`` become band descriptions.

    ``colours``: how each band is marked: red, alpha, undefined ...
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    array = array[None] if array.ndim == 2 else array
    settings = {"driver": "GTiff", "count": len(array), "height": array.shape[1],
                "width": array.shape[2], "dtype": array.dtype.name, "crs": crs,
                "transform": transform, "nodata": nodata, **profile}  # fmt: skip
    with rasterio.open(path, "w", **settings) as file:
        if colours:
            file.colorinterp = [ColorInterp[colour] for colour in colours]
        file.write(array)
        if names:
            file.descriptions = names
    return path


def outlines(
    mask: np.ndarray, transform: Affine = AT, crs: str = CRS, **columns: Any
) -> gpd.GeoDataFrame:
    """Return the polygons of a mask with further columns."""
    found = [shape(one) for one, _ in shapes(mask, mask == 1, transform=transform)]
    return gpd.GeoDataFrame(columns, index=range(len(found)), geometry=found, crs=crs)


def manifest(
    folder: Path,
    images: str = "scene.tif",
    rest: str = "",
    reflectance: str = "{scale: 10000, offset: -1000, nodata: 0}",
    bands: str = "[red, green, blue, nir]",
) -> Path:
    """Write a manifest of one area, train, at 2023-08; returns the folder."""
    (folder / "dataset.yaml").write_text(
        f"name: trap\nbands: {bands}\nreflectance: {reflectance}\n{rest}\n"
        f"areas:\n  train:\n    2023-08: {images}\n",
        encoding="utf-8",
    )
    return folder


def sound(folder: Path, images: str = "scene.tif", file: str = "scene.tif", **profile: Any) -> Path:
    """Make a dataset of a scene of 128 px and its outlines, ``o.gpkg``; returns the folder."""
    image, truth = scene(128)
    write(folder / file, numbers(image), **profile)
    outlines(truth, glac_id="G1").to_file(folder / "o.gpkg")
    return manifest(folder, images, "outlines: o.gpkg")


def mapped(out: Path) -> np.ndarray:
    """Return the class map that was written to a folder: uint8 [row, col]."""
    (path,) = out.glob("*_class.tif")
    with rasterio.open(path) as file:
        return file.read(1)


def labels(folder: Path, area: str = "train", date: str = "2023-08") -> np.ndarray:
    """Return the labels of a dataset's area and date: uint8 [row, col]."""
    from glacier_utils.datasets import open_dataset

    dataset = open_dataset(folder)
    return dataset.labels(area, date).read(0, 0, *dataset.source(area, date).grid.shape)


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the intersection over union of glacier, pixels of 255 in ``found`` left out."""
    known = found != 255
    either = ((found == 1) | (truth == 1)) & known
    return float(((found == 1) & (truth == 1) & known).sum() / max(1, either.sum()))


def table(rows: Iterable[tuple[int, str, str, str]]) -> str:
    """Return the table of (kind, trap, expected, happened) as Markdown."""
    lines = [f"| {KINDS[kind]} | {text} | {expected} | {happened} |"
             for kind, text, expected, happened in sorted(set(rows))]  # fmt: skip
    head = [
        "# Traps",
        "",
        "Inputs as people really have them, and what becomes of them. Written by `make traps`,",
        "which runs them: right, or warned (as good as can be, with a line of what to look at),",
        "or refused (one line that names file and remedy).",
        "",
        f"{len(lines)} traps.",
        "",
        "| kind | what is given | expected | happened |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *lines, ""])
