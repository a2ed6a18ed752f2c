"""How near cutting a scene into patches comes to reading it; whether memory stays flat.

The bare work reads the same scene once, window by window, and writes as many bytes with NumPy.
Each build runs in a process of its own (``python -m benchmarks.tiling FOLDER``), so that its peak
of resident memory is its own.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
from rasterio.transform import from_origin
from rasterio.windows import Window

from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.patches import build_patches

SIZE, ACROSS, BLOCK, WINDOW = 128, 100, 512, 1024
ORIGIN = (300_000.0, 6_900_000.0)
PROFILE = {"driver": "GTiff", "count": 4, "dtype": "uint16", "crs": "EPSG:32623", "nodata": 0}


def tiling(patches: int = 10_000) -> dict[str, float]:
    """Patches per second of `patches.build_patches` over the bare work, and peaks of memory.

    Scenes of 100 patches across; the small one has a tenth of the rows. Labels are burnt from some
    hundred outlines, and every fact of a patch is computed.
    """
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = _best(_scene(folder / "small", patches // 10), "build")
        large = _scene(folder / "large", patches)
        bare, built = _best(large, "bare"), _best(large, "build")
        files = _files(folder / "files", large / "scene.tif")
        bare_files, built_files = _best(files, "bare"), _best(files, "build")
    for prefix, one, other in (("tiling", bare, built), ("tiling_files", bare_files, built_files)):
        figures[f"{prefix}_patches_s"] = round(patches / other["seconds"])
        figures[f"{prefix}_bare_patches_s"] = round(patches / one["seconds"])
        figures[f"{prefix}_share_of_bare"] = round(one["seconds"] / other["seconds"], 3)
    figures["tiling_again_s"] = built["again_s"]
    figures["tiling_peak_mb"] = built["peak_mb"]
    figures["tiling_small_peak_mb"] = small["peak_mb"]
    figures["tiling_peak_ratio"] = round(built["peak_mb"] / small["peak_mb"], 3)
    return figures


def _best(folder: Path, work: str) -> dict[str, float]:
    """Work in two new processes; return seconds and peak memory of the quicker one."""
    command = [sys.executable, "-m", "benchmarks.tiling", work, str(folder)]
    runs = []
    for _ in range(2):
        shutil.rmtree(folder / "patches", ignore_errors=True)
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        runs.append(json.loads(output.splitlines()[-1]))
    return min(runs, key=lambda run: run["seconds"])


def _scene(folder: Path, patches: int) -> Path:
    """Make a dataset of one tiled scene; noise of five bits on a pattern, so that it packs."""
    folder.mkdir(parents=True)
    shape = patches // ACROSS * SIZE, ACROSS * SIZE
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:BLOCK, :BLOCK] / BLOCK * 2 * np.pi
    wave = 3000 + 1500 * np.sin(row) * np.cos(2 * col)
    noise = rng.integers(0, 32, (4, 2 * BLOCK, 2 * BLOCK))
    profile = {
        **PROFILE, "height": shape[0], "width": shape[1], "transform": from_origin(*ORIGIN, 10, 10),
        "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "DEFLATE",
        "predictor": 2, "interleave": "band", "zlevel": 1,
    }  # fmt: skip
    with rasterio.open(folder / "scene.tif", "w", **profile) as scene:
        for _, window in scene.block_windows(1):
            top, left = rng.integers(0, BLOCK, 2)
            height, width = int(window.height), int(window.width)
            part = noise[:, top : top + height, left : left + width] + wave[:height, :width]
            scene.write(part.astype(np.uint16), window=window)
    _outlines(folder / "outlines.gpkg", shape, rng)
    return _manifest(folder, "scene.tif")


def _files(folder: Path, scene: Path) -> Path:
    """Cut a scene into one file per patch."""
    (folder / "images").mkdir(parents=True)
    with rasterio.open(scene) as source:
        shape, transform = source.shape, source.transform
        for top in range(0, shape[0], SIZE):
            strip = source.read(window=Window(0, top, shape[1], SIZE))
            for left in range(0, shape[1], SIZE):
                place = transform @ rasterio.Affine.translation(left, top)
                path = folder / "images" / f"patch_r{top // SIZE:03d}_c{left // SIZE:03d}.tif"
                profile = {**PROFILE, "height": SIZE, "width": SIZE, "transform": place}
                with rasterio.open(path, "w", **profile) as target:
                    target.write(strip[:, :, left : left + SIZE])
    _outlines(folder / "outlines.gpkg", shape, np.random.default_rng(0))
    return _manifest(folder, "images/*.tif")


def _outlines(path: Path, shape: tuple[int, int], rng: np.random.Generator) -> None:
    """Write round glaciers of some km with ragged edges, as many as fit in the frame."""
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    places = [(y, x) for y in range(150, shape[0], 600) for x in range(150, shape[1], 600)]
    polygons = []
    for y, x in places:
        far = rng.uniform(1000, 3000) * (1 + 0.1 * rng.standard_normal(len(angle)))
        polygons.append(
            shapely.Polygon(
                np.column_stack(
                    [
                        ORIGIN[0] + 10 * x + far * np.cos(angle),
                        ORIGIN[1] - 10 * y + far * np.sin(angle),
                    ]
                )
            )
        )
    table = {
        "glac_id": [f"G{number:06d}E61000N" for number in range(len(places))],
        "line_type": "glac_bound",
        "src_date": pd.to_datetime(rng.choice(["2000-08-01", "2015-07-20"], len(places))),
        "anlys_id": 1,
    }
    frame = gpd.GeoDataFrame(table, geometry=shapely.make_valid(polygons), crs=PROFILE["crs"])
    frame.to_crs(4326).to_file(path)


def _manifest(folder: Path, images: str) -> Path:
    (folder / "dataset.yaml").write_text(
        "reflectance: {scale: 10000, offset: -1000, nodata: 0}\noutlines: outlines.gpkg\n"
        f"areas:\n  train:\n    2023-08: {images}\n",
        encoding="utf-8",
    )
    return folder


def _bare(folder: Path) -> None:
    """Read every pixel once and write the bytes of images and labels."""
    files = sorted(folder.glob("images/*.tif")) or [folder / "scene.tif"]
    quick = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE")  # or opening lists the folder
    with quick, open(folder / "bare.bin", "wb") as target:
        for path in files:
            with rasterio.open(path) as scene:
                for row in range(0, scene.height, WINDOW):
                    for col in range(0, scene.width, WINDOW):
                        height = min(WINDOW, scene.height - row)
                        width = min(WINDOW, scene.width - col)
                        values = scene.read(window=Window(col, row, width, height))
                        values.astype(np.float32).tofile(target)
                        np.zeros((height, width), np.uint8).tofile(target)
    (folder / "bare.bin").unlink()


def _main(work: str, folder: str) -> None:
    start = time.perf_counter()
    if work == "bare":
        _bare(Path(folder))
        figures = {}
    else:
        build_patches(open_dataset(folder))
    seconds = time.perf_counter() - start
    if work == "build":
        start = time.perf_counter()
        build_patches(open_dataset(folder))
        figures = {"again_s": round(time.perf_counter() - start, 2)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**figures, "seconds": seconds, "peak_mb": round(peak)}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
