"""Whole scenes: how near mapping one comes to the bare network, and how far from the usual way.

Each part runs in a process of its own (``python -m benchmarks.scenes PART FOLDER``), so that its
peak of resident memory is its own. The network is a U-Net with a ResNet-18 whose weights are
random: its speed is that of a trained one. Outlines are timed apart, on a map with shapes like
those of ice, since those of a random network have no end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.windows import Window
from scipy import ndimage

from glacier_utils.models import checkpoint
from glacier_utils.prediction import acceleration, memory
from glacier_utils.prediction.mapper import Mapper
from glacier_utils.prediction.scenes import map_scene
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import write_raster

TILE, OVERLAP = 10_980, 64
BANDS = ("red", "green", "blue", "nir")
# Shapes (windows, side) of a bare pass, of which the fastest counts.
BARE = ((4, 512), (1, 512), (1, 800), (1, 1024))
OWN_WINDOW = 672  # what a tile is mapped in
USUAL_SIDE, USUAL_WINDOW = 4096, 512
PROFILE = {
    "driver": "GTiff", "count": 4, "dtype": "uint16", "crs": "EPSG:32623", "nodata": 0,
    "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "DEFLATE", "predictor": 2,
    "zlevel": 1, "bigtiff": "IF_SAFER", "transform": from_origin(300_000, 6_900_000, 10, 10),
}  # fmt: skip


def scenes(side: int = TILE) -> dict[str, float | str]:
    """Return rates, ratios and peaks of memory of mapping a full tile (a smaller one in tests).

    scene_share_of_bare: pixels of the tile per second, from the GeoTIFF to both maps as
    cloud-optimised GeoTIFFs, over those of a bare forward pass in the machine's best number format.
    own_forward_mpx_s: of the same network as it is rewritten for mapping (``Mapper``), which comes
    to the same map with fewer multiplications: what reading and writing leave of it is seen there.
    scene_over_usual_way: the same over the usual way (see ``_usual``).
    scene_peak_four_tiles_mb: of a scene of two by two tiles, whose uppermost and lowest tenth hold
    data: the rest is read and left out, so that the measurement takes no longer than a tile.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint.save_checkpoint(folder / "model.pt", _segmenter())
        _scene(folder / "tile.tif", side, side)
        _scene(folder / "four.tif", 2 * side, 2 * side, band=side // 5)
        bare = max(_part("bare", folder, *map(str, shape))["rate"] for shape in BARE)
        own = _part("own", folder, str(min(OWN_WINDOW, side)))["rate"]
        tile = _part("tile", folder)
        usual = _part("usual", folder, str(min(USUAL_SIDE, side)))
        four = _part("four", folder)
        outlines = _part("outlines", folder, str(side))
    rate = side**2 / tile["seconds"]
    return {
        "bare_forward_mpx_s": round(bare / 1e6, 3),
        "own_forward_mpx_s": round(own / 1e6, 3),
        "scene_mpx_s": round(rate / 1e6, 3),
        "usual_way_mpx_s": round(usual["rate"] / 1e6, 3),
        "scene_share_of_bare": round(rate / bare, 3),
        "scene_over_usual_way": round(rate / usual["rate"], 2),
        "scene_full_tile_s": round(tile["seconds"], 1),
        "scene_peak_mb": tile["peak_mb"],
        "scene_peak_four_tiles_mb": four["peak_mb"],
        "scene_outlines_s": round(outlines["seconds"], 1),
        "scene_outlines_peak_mb": outlines["peak_mb"],
    }


def _segmenter() -> checkpoint.Segmenter:
    torch.manual_seed(0)
    return checkpoint.Segmenter("unet-resnet18", BANDS, np.full(4, 0.3), np.full(4, 0.2))


def _part(work: str, *arguments: str | Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scenes", work, *map(str, arguments)]
    # Torch as it is by itself for the usual way: huge pages, and how long threads spin before they
    # sleep, are choices of this package.
    itself = {"THP_MEM_ALLOC_ENABLE": "0", "GOMP_SPINCOUNT": "300000"}
    own = itself if work == "usual" else {}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | own)
    return json.loads(run.stdout.splitlines()[-1])


def _scene(path: Path, height: int, width: int, *, band: int | None = None) -> None:
    """Write noise of five bits on a smooth pattern, so that it packs like an image.

    With ``band``, only the uppermost and the lowest that many rows hold data.
    """
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:512, :512] / 512 * 2 * np.pi
    wave = 3000 + 1500 * np.sin(row) * np.cos(2 * col)
    noise = rng.integers(0, 32, (4, 1024, 1024))
    with rasterio.open(path, "w", **PROFILE, height=height, width=width) as file:
        for _, window in file.block_windows(1):
            shape = int(window.height), int(window.width)
            if band and band <= window.row_off and window.row_off + shape[0] <= height - band:
                continue  # left out of the file: no data
            top, left = rng.integers(0, 512, 2)
            part = noise[:, top : top + shape[0], left : left + shape[1]]
            file.write((part + wave[: shape[0], : shape[1]]).astype(np.uint16), window=window)


def _bare(folder: Path, windows: str, side: str) -> dict[str, float]:
    """Run one batch forward again and again, in the machine's best number format."""
    network = checkpoint.load_checkpoint(folder / "model.pt")
    batch = torch.rand(int(windows), 4, int(side), int(side))
    batch = batch.contiguous(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode(), acceleration.autocast("cpu", acceleration.resolve()):
        for _ in range(5):
            start = time.perf_counter()
            network(batch)
            times.append(time.perf_counter() - start)
    return {"rate": batch[:, 0].numel() / min(times)}


def _own(folder: Path, side: str) -> dict[str, float]:
    """Run the network that maps the scene, with normalisation, on one window again and again."""
    memory.use_one_heap()
    mapper = Mapper(checkpoint.load_checkpoint(folder / "model.pt"))
    images = np.random.default_rng(0).random((1, 4, int(side), int(side)), np.float32)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        mapper.probability(images)
        times.append(time.perf_counter() - start)
    return {"rate": images[:, 0].size / min(times)}


def _map(folder: Path, name: str) -> dict[str, float]:
    memory.use_one_heap()  # as `glacier predict` does
    start = time.perf_counter()
    map_scene(
        folder / "model.pt", folder / f"{name}.tif", folder / name, overlap=OVERLAP,
        offset=-1000, scale=10_000, outlines=False,
    )  # fmt: skip
    return {"seconds": time.perf_counter() - start}


def _tile(folder: Path) -> dict[str, float]:
    return _map(folder, "tile")


def _four(folder: Path) -> dict[str, float]:
    return _map(folder, "four")


def _usual(folder: Path, side: str) -> dict[str, float]:
    """Map a part of the tile as tutorials do, from the GeoTIFF to one of its kind.

    Float32 in the default memory format, one window of 512 pixels after the other at 64 pixels
    overlap, the last shifted to end with the scene; the scene whole in memory, and sums and
    weights in float64 of its full size. The network is there before the clock starts.
    """
    side = int(side)
    network = _segmenter().eval()
    network.load_state_dict(checkpoint.load_checkpoint(folder / "model.pt").state_dict())
    start = time.perf_counter()
    with rasterio.open(folder / "tile.tif") as file:
        stored = file.read(window=Window(0, 0, side, side))
    image = (stored.astype(np.float32) - 1000) / 10000
    total, weights = np.zeros((side, side)), np.zeros((side, side))
    size = min(USUAL_WINDOW, side)
    last = side - size
    starts = [*range(0, last, size - OVERLAP), last]
    ramp = np.hanning(size + 2)[1:-1]
    weight = np.outer(ramp, ramp)
    with torch.no_grad():
        for row in starts:
            for col in starts:
                part = np.s_[row : row + size, col : col + size]
                batch = torch.from_numpy(image[(slice(None), *part)])[None]
                total[part] += network(batch).sigmoid()[0].numpy() * weight
                weights[part] += weight
    probability = (total / weights).astype(np.float32)
    profile = PROFILE | {"height": side, "width": side, "count": 1, "dtype": "float32"}
    with rasterio.open(folder / "usual.tif", "w", **profile | {"nodata": None}) as file:
        file.write(probability, 1)
    seconds = time.perf_counter() - start
    assert np.isfinite(probability).all()
    return {"rate": side**2 / seconds}


def _outlines(folder: Path, side: str) -> dict[str, float]:
    """Trace a map of a tile whose shapes have a few km, with ragged edges."""
    side = int(side)
    rng = np.random.default_rng(0)
    coarse = ndimage.gaussian_filter(rng.normal(size=(-(-side // 4),) * 2), 20)
    fine = ndimage.gaussian_filter(rng.normal(size=coarse.shape), 2)
    heights = coarse / coarse.std() + 0.15 * fine / fine.std()
    ice = ndimage.zoom(heights.astype(np.float32), 4, order=1)[:side, :side] > 1.2
    grid = Grid(rasterio.crs.CRS.from_epsg(32623), PROFILE["transform"], side, side)
    write_raster(folder / "class.tif", ice.astype(np.uint8), grid, nodata=255)
    # A process of its own again: the map was made in this one.
    code = (
        "import sys, time; from glacier_utils.outlines import polygonize_file\n"
        "start = time.perf_counter(); count = len(polygonize_file(sys.argv[1]))\n"
        "from benchmarks.scenes import peak_mb\n"
        "print(time.perf_counter() - start, count, peak_mb())"
    )
    command = [sys.executable, "-c", code, str(folder / "class.tif")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, _, peak = map(float, output.split())
    return {"seconds": seconds, "peak_mb": int(peak)}


def peak_mb() -> int:
    """Return the peak of resident memory of this process.

    Not of ``getrusage``, which counts the process that started this one until it took over.
    """
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024)


def _main(work: str, folder: str, *arguments: str) -> None:
    parts = {
        "bare": _bare,
        "own": _own,
        "tile": _tile,
        "four": _four,
        "usual": _usual,
        "outlines": _outlines,
    }
    figures = parts[work](Path(folder), *arguments)
    print(json.dumps({"peak_mb": peak_mb(), **figures}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
