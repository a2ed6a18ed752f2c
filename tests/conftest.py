"""Small datasets made where a test runs, and the way to the real data where there is some."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.features
import shapely
import yaml
from affine import Affine
from hypothesis import HealthCheck, settings

# A loaded machine is slow, which is no fault of the code; CI tries the same examples each time.
settings.register_profile(
    "project",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
# `make test-fast`, by --hypothesis-profile: fewer examples where a test does not say how many.
settings.register_profile("fast", settings.get_profile("project"), max_examples=20)
settings.load_profile("project")

# Side by side (pytest-xdist), each worker and what it starts take an equal part of the processor:
# threads that wait for each other cost more than they bring. Before torch is imported.
if WORKERS := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // WORKERS, 1))

CRS = "EPSG:32623"
ORIGIN = (450_000.0, 6_780_000.0)
PIXEL = 10.0
DATES = ("2023-07", "2023-08")
# Numbers of red, green, blue, nir as stored by Sentinel-2 L2A: 10000 x reflectance + 1000.
ICE, GROUND = (4500, 4700, 4800, 4000), (1900, 1800, 1600, 3200)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, begin with what takes longest; else it would be left to one worker."""
    # With --cov, nbval measures inside the kernels too, and waits for an answer that never comes
    # (nbval 0.11, coverage 7.17). What the tests cover is enough.
    config.option.cov_source = None
    for item in items:
        # The notebooks are tested in a run of their own that trains for few steps (41 are validated
        # 14 times, 60 twenty times): nothing that nbval compares hangs on a training.
        if "parameters" in getattr(item, "cell", {}).get("metadata", {}).get("tags", ()):
            source = item.cell.source.replace('run = "default"', 'run = "tested"')
            source = re.sub(r"^steps = \d+", "steps = 41", source, flags=re.M)
            # The slower network learns on real imagery, in test_zz_real.py.
            item.cell.source = source.replace('    "unet-resnet18",\n', "")
    if WORKERS:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(
            key=lambda item: (
                item.path.suffix != ".ipynb", "zz" not in item.path.name, item.path not in slow,
            )
        )  # fmt: skip


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the table of traps (tests/traps) where `make traps` asks for it."""
    if not os.environ.get("WRITE_TRAPS"):
        return
    from traps.tools import table

    reports = [*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())]
    rows = [tuple(value) for report in reports
            for name, value in report.user_properties if name == "trap"]  # fmt: skip
    (Path(__file__).parent / "traps" / "TABLE.md").write_text(table(rows), "utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Keep what belongs together on one worker: a file's tests, and all notebooks, in order."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            # A cell is called 01.ipynb::Cell 0 or 01::ipynb::Cell 0, as pytest's version has it.
            return "notebooks" if "ipynb::" in nodeid else nodeid.partition("::")[0]

    return Scheduling(config, log)


@pytest.fixture
def real_data() -> Path:
    """Folder of the real development data."""
    folder = os.environ.get("GLACIER_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GLACIER_REAL_DATA does not name the folder of the real data")
    return Path(folder)


@pytest.fixture
def offscreen() -> Iterator[None]:
    """Draw off screen; every warning is an error, no figure outlives its test."""
    from matplotlib import pyplot as plt
    from matplotlib import rc_context

    with rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On small arrays threads wait for each other longer than they work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_tif() -> Callable[..., Path]:
    """Write a GeoTIFF: (path, array [row, col] or [band, row, col], row, col, ...) -> path."""
    return _write_tif


@pytest.fixture(scope="session")
def drawn_datasets(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Images and outlines of datasets, drawn once: copying them takes less than writing them."""

    @cache
    def draw(patches: tuple[int, int], size: int, dates: tuple[str, ...]) -> Path:
        folder = tmp_path_factory.mktemp("drawn")
        rows, cols = patches[0] * size, patches[1] * size
        outlines = []
        for number, area in enumerate(("train", "test")):
            # The areas lie side by side with a gap of one frame.
            corner = ORIGIN[0] + number * 2 * cols * PIXEL, ORIGIN[1]
            glacier, rock = _shapes(corner, rows, cols)
            outlines += [(f"G{number:06d}E61000N", "glac_bound", glacier),
                         (f"G{number:06d}E61000N", "intrnl_rock", rock)]  # fmt: skip
            for date in dates:
                scene = _scene(corner, rows, cols, glacier.difference(rock),
                               seed=number + 2 * dates.index(date))  # fmt: skip
                _cut(folder / "images" / area / date, scene, corner, size, f"{area}_{date}")
        write_outlines(folder / "outlines.gpkg", outlines)
        return folder

    return draw


@pytest.fixture
def make_dataset(tmp_path: Path, drawn_datasets: Callable[..., Path]) -> Callable[..., Path]:
    """Make a georeferenced patch dataset with GLIMS outlines; gives its folder.

    Arguments: ``name``, ``patches`` (rows, columns) per area, ``size`` of a patch in pixels, and
    further keys of the manifest. Areas "train" and "test", two dates, 10 m, UTM 23N; one glacier
    per area, an ellipse around the middle with a square of internal rock.
    """

    def make(
        name: str = "tiny",
        *,
        patches: tuple[int, int] = (4, 6),
        size: int = 32,
        dates: tuple[str, ...] = DATES,
        **manifest: object,
    ) -> Path:
        folder = tmp_path / name
        shutil.copytree(drawn_datasets(patches, size, dates), folder, dirs_exist_ok=True)
        content = {
            "name": name,
            "bands": ["red", "green", "blue", "nir"],
            "reflectance": {"scale": 10000, "offset": -1000, "nodata": 0},
            "outlines": "outlines.gpkg",
            "areas": {
                area: {date: f"images/{area}/{date}/*.tif" for date in dates}
                for area in ("train", "test")
            },
            **manifest,
        }
        (folder / "dataset.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return folder

    return make


@pytest.fixture
def six(tmp_path, make_dataset, monkeypatch) -> Path:
    """The project's own notebooks, the tables that they show, and a tiny dataset."""
    root, clone = tmp_path / "project", Path(__file__).resolve().parents[1]
    for folder in ("notebooks", "studies/tables"):
        shutil.copytree(clone / folder, root / folder, ignore=lambda *_: ["parameters"])
    (root / "notebooks" / "parameters").mkdir()
    (root / "data").mkdir()
    make_dataset(patches=(4, 6)).rename(root / "data" / "tiny")
    monkeypatch.setenv("GLACIER_HOME", str(root))
    return root


def write_outlines(path: Path, rows: list[tuple], crs: str = CRS) -> Path:
    """Write (glac_id, line_type, polygon[, src_date, anlys_id]) as GLIMS rows in EPSG:4326."""
    rows = [(*row, "2001-08-15", 1)[:5] if len(row) == 3 else row for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = gpd.GeoDataFrame(
        {
            "glac_id": [row[0] for row in rows],
            "line_type": [row[1] for row in rows],
            "src_date": pd.to_datetime([row[3] for row in rows]),
            "anlys_id": [row[4] for row in rows],
            "glac_name": ["Sermeq"] * len(rows),
            "loc_unc_x": [15] * len(rows),
            "loc_unc_y": [20] * len(rows),
        },
        geometry=[row[2] for row in rows],
        crs=crs,
    )
    table.to_crs("EPSG:4326").to_file(path)
    return path


@pytest.fixture
def glims_file() -> Callable[..., Path]:
    """Write a small GLIMS file; see ``write_outlines``."""
    return write_outlines


def _write_tif(
    path: Path,
    array: np.ndarray,
    row: int = 0,
    col: int = 0,
    *,
    crs: str | None = CRS,
    transform: Affine | None = None,
    pixel: float = PIXEL,
    nodata: float | None = None,
) -> Path:
    bands = array[np.newaxis] if array.ndim == 2 else array
    if transform is None:
        transform = Affine(pixel, 0, ORIGIN[0] + col * pixel, 0, -pixel, ORIGIN[1] - row * pixel)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore"), rasterio.open(
        path, "w", driver="GTiff", count=bands.shape[0], height=bands.shape[1],
        width=bands.shape[2], dtype=bands.dtype, crs=crs, transform=transform, nodata=nodata,
    ) as dataset:  # fmt: skip
        dataset.write(bands)
    return path


def _shapes(corner: tuple[float, float], rows: int, cols: int) -> tuple:
    middle = shapely.Point(corner[0] + cols * PIXEL / 2, corner[1] - rows * PIXEL / 2)
    glacier = shapely.affinity.scale(middle.buffer(1.0), 0.3 * cols * PIXEL, 0.3 * rows * PIXEL)
    return glacier, middle.buffer(0.06 * rows * PIXEL, cap_style="square")


def _scene(
    corner: tuple[float, float], rows: int, cols: int, ice: shapely.Geometry, seed: int
) -> np.ndarray:
    random = np.random.default_rng(seed)
    transform = Affine(PIXEL, 0, corner[0], 0, -PIXEL, corner[1])
    mask = rasterio.features.rasterize([ice], (rows, cols), transform=transform).astype(bool)
    values = np.where(mask, np.array(ICE)[:, None, None], np.array(GROUND)[:, None, None])
    return (values + random.normal(0, 60, values.shape)).astype(np.uint16)


def _cut(
    folder: Path, scene: np.ndarray, corner: tuple[float, float], size: int, name: str
) -> None:
    transform = Affine(PIXEL, 0, corner[0], 0, -PIXEL, corner[1])
    for row in range(scene.shape[1] // size):
        for col in range(scene.shape[2] // size):
            piece = scene[:, row * size : (row + 1) * size, col * size : (col + 1) * size]
            _write_tif(
                folder / f"{name}_r{row:02d}_c{col:02d}.tif", piece,
                transform=transform @ Affine.translation(col * size, row * size),
            )  # fmt: skip
