"""How like real images the synthetic sample is, in numbers: ratios of sample to real.

Three comparisons, one row each in the table:

- *points*: percentiles of each class and band, of sunlit pixels whose neighbours are of the same
  surface, with those of points classified by hand (Aberle, doi 10.5281/zenodo.10616385); the fjord,
  which those points lack, with the water of the image near Nuuk;
- *30 m*: the sample averaged to 30 m, with Sentinel-2 at Athabasca Glacier (HLS, September 2020);
- *60 m*: averaged to 60 m, with Sentinel-2 near Nuuk, West Greenland (August 2020), without cloud.

Of images, the same rules on the bands say what is snow, ice or land, so that a fault of the rules
is in both. Only water is known better: by the sample's surfaces and by the scene classification.

    python -m studies.landscapes.realism data/sample --real FOLDER
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from glacier_utils.conventions import BANDS
from glacier_utils.datasets import open_dataset
from glacier_utils.errors import GlacierError, plain
from glacier_utils.files import write_csv
from glacier_utils.imagery.clouds import cloud_mask
from glacier_utils.imagery.source import open_source
from glacier_utils.raster.grid import Image
from glacier_utils.raster.indices import ice_index, is_shadow, is_snow, is_water, visible
from glacier_utils.raster.mask import open_mask

# Class -> its number among the points, its surfaces in the sample, whether in shadow (None: both).
CLASSES = {
    "snow": (1, (8, 10), False),
    "shadowed snow": (2, (8, 10), True),
    "ice": (3, (7,), False),
    "rock": (4, (1, 9), False),
    "lake": (5, (5, 6), None),
}
FJORD, WATER = (4,), (4, 5, 6)
LAND = "land"  # all that is neither water nor sunlit snow or ice, shadows included
KINDS = ("ice", "snow", LAND, "water")
# What is compared at each resolution in m. Near Nuuk what looks like snow is mostly sunlit tundra.
COMPARED = {30: ("ice", "snow", LAND), 60: (LAND, "water")}
PERCENTILES = (5, 50, 95)
TOLERANCE = 1 / 3
LEAST_DIFFERENCE = 0.02  # of reflectance: atmospheric correction knows dark ground no better
DARK_NIR = 0.08  # 95 % of sunlit rock is above 0.10
WINDOW = 12  # px of the windows of power spectra: a glacier is hardly wider at 60 m
LEAST = 100  # pixels or pairs, below which nothing is said of a kind
# The mountains and fjords at the lower right of the image near Nuuk (first row, first column): the
# rest is cloud, open sea and upland without relief.
NUUK_PART = (600, 1050)


@dataclass(frozen=True)
class View:
    """An image at one resolution: reflectance [band, row, col], and bool masks [row, col]."""

    reflectance: np.ndarray
    valid: np.ndarray
    water: np.ndarray

    def kinds(self) -> dict[str, np.ndarray]:
        """Return where each of ``KINDS`` is seen; shores belong to none."""
        dry = self.valid & ~ndimage.binary_dilation(self.water)
        bright = dry & ice_index(self.reflectance) & ~is_shadow(self.reflectance)
        snow = bright & is_snow(self.reflectance)
        water = self.valid & ndimage.binary_erosion(self.water, border_value=1)
        masks = (bright & ~snow, snow, dry & ~bright, water)
        return dict(zip(KINDS, masks, strict=True))


def coarsen(image: View, step: int) -> View:
    """Average ``step`` x ``step`` pixels; valid where all of them are, water where most are."""
    rows, cols = (side // step * step for side in image.valid.shape)

    def mean(array: np.ndarray) -> np.ndarray:
        blocks = array[..., :rows, :cols].reshape(
            *array.shape[:-2], rows // step, step, cols // step, step
        )
        return blocks.mean(axis=(-3, -1), dtype=np.float32)

    return View(mean(image.reflectance), mean(image.valid) == 1, mean(image.water) > 0.5)


def spectrum_slope(field: np.ndarray, mask: np.ndarray, window: int = WINDOW) -> tuple[float, int]:
    """Return the slope of the radially averaged power spectrum, and of how many windows.

    Windows that lie in the mask by 95 % are freed of their plane, tapered (Hann) and scaled to unit
    variance; the line is fitted to the logarithms of mean power and wave number, from wavelengths
    of half a window to two pixels.

    Args:
        field: [row, col].
        mask: bool, of the kind of ground that counts.
        window: side in px.
    """
    step = window // 2
    views = [
        np.lib.stride_tricks.sliding_window_view(array, (window, window))[::step, ::step]
        for array in (field, mask)
    ]
    chosen = views[1].mean(axis=(2, 3)) >= 0.95
    count = int(chosen.sum())
    if count < 3:
        return np.nan, count
    inside = views[1][chosen]
    values = np.where(inside, views[0][chosen], 0).astype(float)
    mean = values.sum(axis=(1, 2), keepdims=True) / inside.sum(axis=(1, 2), keepdims=True)
    values = np.where(inside, values - mean, 0)
    ramp = np.arange(window) - (window - 1) / 2
    for line in (ramp[:, None], ramp[None, :]):
        plane = np.broadcast_to(line, (window, window))
        tilt = (values * plane).sum(axis=(1, 2), keepdims=True) / (plane**2).sum()
        values = values - tilt * plane
    taper = np.hanning(window + 1)[:window]
    power = np.abs(np.fft.fft2(values * taper[:, None] * taper[None, :])) ** 2
    power /= np.maximum(values.var(axis=(1, 2), keepdims=True), 1e-12)
    waves = np.fft.fftfreq(window, 1 / window)
    ring = np.rint(np.hypot(waves[:, None], waves[None, :])).astype(int).ravel()
    radial = np.bincount(ring, power.mean(axis=0).ravel()) / np.bincount(ring)
    used = np.arange(2, window // 2 + 1)
    return float(np.polyfit(np.log(used), np.log(radial[used]), 1)[0]), count


def contrast(field: np.ndarray, mask: np.ndarray) -> tuple[float, int]:
    """Return the standard deviation of differences between neighbours, and of how many pairs."""
    steps = [
        np.diff(field, axis=axis)[np.logical_and(*pair)]
        for axis, pair in ((0, (mask[1:], mask[:-1])), (1, (mask[:, 1:], mask[:, :-1])))
    ]
    found = np.concatenate(steps)
    return (float(found.std()) if len(found) else np.nan), len(found)


def gradients(field: np.ndarray, mask: np.ndarray) -> tuple[float, float, int]:
    """Return median and 95th percentile of the gradient per pixel over the mean, and the pixels.

    Of water, whose mean is next to nothing, there is no such ratio.
    """
    inner = ndimage.binary_erosion(mask)
    count = int(inner.sum())
    mean = field[inner].mean() if count else 0
    if mean < LEAST_DIFFERENCE:
        return np.nan, np.nan, count
    middle, high = np.percentile(np.hypot(*np.gradient(field))[inner] / mean, (50, 95))
    return float(middle), float(high), count


def dark_shadow(image: View) -> float:
    """Return the fraction of ground off the water that lies in dark shadow."""
    ground = image.valid & ~ndimage.binary_dilation(image.water)
    nir = image.reflectance[BANDS.index("nir")]
    return float((nir[ground] < DARK_NIR).mean()) if ground.any() else np.nan


def statistics(image: View, kinds: Sequence[str]) -> dict[tuple[str, str, str], float]:
    """Return kind, band, statistic -> value of an image, for some of ``KINDS``."""
    masks = image.kinds()
    bands = {"visible": visible(image.reflectance), "nir": image.reflectance[3]}
    found = {(LAND, "nir", "dark shadow"): dark_shadow(image)}
    for kind in kinds:
        mask = masks[kind]
        for band, field in bands.items():
            spread, pairs = contrast(field, mask)
            middle, high, count = gradients(field, mask)
            few = count < LEAST or pairs < LEAST
            values = {
                "contrast": spread,
                "gradient p50 / mean": middle,
                "gradient p95 / mean": high,
                "spectrum slope": spectrum_slope(field, mask)[0],
            }
            for number in PERCENTILES:
                values[f"p{number}"] = np.nan if few else float(np.percentile(field[mask], number))
            found |= {(kind, band, name): np.nan if few else v for name, v in values.items()}
    return found


def percentiles(pixels: np.ndarray) -> dict[tuple[str, str], float]:
    """Return band, percentile -> value of pixels [band, n]."""
    if pixels.shape[1] < LEAST:
        return {}
    table = np.percentile(pixels, PERCENTILES, axis=1).T
    return {
        (band, f"p{number}"): float(value)
        for band, row in zip(BANDS, table, strict=True)
        for number, value in zip(PERCENTILES, row, strict=True)
    }


def points(folder: Path) -> dict[str, np.ndarray]:
    """Return class -> reflectance [band, n] of the points classified by hand."""
    table = pd.read_csv(folder / "surface_spectra" / "Sentinel-2_SR_training_data.csv")
    columns = ["B4", "B3", "B2", "B8"]
    return {
        name: table.loc[table["class"] == number, columns].to_numpy().T
        for name, (number, *_) in CLASSES.items()
    }


def pixels(image: View, surface: np.ndarray) -> dict[str, np.ndarray]:
    """Return class -> reflectance [band, n] of the sample, away from borders of surfaces.

    Args:
        image: of the sample at its own 10 m.
        surface: codes of ``conventions.SURFACES`` [row, col].
    """
    alike = ndimage.minimum_filter(surface, 3) == ndimage.maximum_filter(surface, 3)
    thin = np.s_[..., ::2, ::2]  # every second will do
    values, codes = image.reflectance[thin], surface[thin]
    # Ground in shadow may look like water.
    pure, shadow = (alike & image.valid)[thin], is_shadow(values) | is_water(values)
    found = {}
    for name, (_, own, dark) in CLASSES.items():
        chosen = pure & np.isin(codes, own)
        found[name] = values[:, chosen if dark is None else chosen & (shadow == dark)]
    return found | {"fjord": values[:, pure & np.isin(codes, FJORD)]}


def real_views(folder: Path) -> dict[int, View]:
    """Return resolution in m -> real image."""
    bands = {"red": "*_B04_*", "green": "*_B03_*", "blue": "*_B02_*", "nir": "*_B8A_*"}
    athabasca = open_source(str(folder / "athabasca_hls" / "*_S30.tif"), bands=bands).read()
    none = np.zeros(athabasca.valid.shape, bool)  # of its lakes none is as large as a few pixels
    nuuk = folder / "nuuk_sentinel2"
    source = open_source(str(nuuk / "*_B*_60m.jp2"), bands=bands)
    image = source.read(*NUUK_PART)
    (path,) = nuuk.glob("*_SCL_60m.jp2")
    classes = open_mask(path, source.grid).read(*NUUK_PART)
    cloud = ndimage.binary_dilation(np.isin(classes, (0, 1, 3, 8, 9, 10)), iterations=5)
    return {
        30: View(athabasca.reflectance, athabasca.valid, none),
        60: View(image.reflectance, image.valid & ~cloud, classes == 6),
    }


def sample_views(dataset: Any, date: str) -> Iterator[tuple[str, View, np.ndarray]]:
    """Give area, image and surfaces of each area of a sample at a date, without cloud."""
    for area in dataset.areas:
        if date not in dataset.dates(area):
            continue
        source, layer = dataset.source(area, date), dataset.surface(area, date)
        if layer is None:
            raise GlacierError(f"{dataset.name}: has no map of surfaces; is it a sample?")
        image: Image = source.read()
        scl, surface = dataset.scene_classification(area, date), layer.read()
        clear = image.valid & (surface != 255)
        if scl is not None:
            mask = cloud_mask(source, scl=scl).read()
            clear &= ~ndimage.binary_dilation(mask != 0, iterations=5)
        yield area, View(image.reflectance, clear, np.isin(surface, WATER)), surface


def compare(dataset: Any, date: str, real: Path) -> pd.DataFrame:
    """Hold a sample against the real images.

    Args:
        dataset: an opened dataset with a map of surfaces.
        date: of its images.
        real: folder of the development data.

    Returns:
        comparison, kind, band, statistic, area, real, sample, ratio, off (by more than a third).
    """
    views, known = real_views(real), points(real)
    water = views[60].reflectance[:, views[60].kinds()["water"]]
    classes = {name: percentiles(values) for name, values in (known | {"fjord": water}).items()}
    images = {scale: statistics(view, COMPARED[scale]) for scale, view in views.items()}
    rows = []
    for area, view, surface in sample_views(dataset, date):
        for name, values in pixels(view, surface).items():
            here = percentiles(values)
            rows += [
                ("points", name, *key, area, classes[name][key], value)
                for key, value in here.items()
            ]
        for scale, values in images.items():
            here = statistics(coarsen(view, scale // 10), COMPARED[scale])
            rows += [
                (f"{scale} m", *key, area, value, here[key])
                for key, value in values.items()
                if np.isfinite(value) and np.isfinite(here[key])
            ]
    columns = ["comparison", "kind", "band", "statistic", "area", "real", "sample"]
    table = pd.DataFrame(rows, columns=columns)
    table["ratio"] = table["sample"] / table["real"]
    near = (table["sample"] - table["real"]).abs() < LEAST_DIFFERENCE
    same = near & table["statistic"].str.fullmatch(r"p\d+")
    table["off"] = ~table["ratio"].between(1 - TOLERANCE, 1 + TOLERANCE) & ~same
    return table


def markdown(table: pd.DataFrame) -> str:
    """Return the ratios as a Markdown table, one column per area; what is off is in bold."""
    keys = ["comparison", "kind", "band", "statistic"]
    areas = list(dict.fromkeys(table["area"]))
    lines = ["| " + " | ".join([*keys, "real", *areas]) + " |", "|---" * (len(keys) + 3) + "|"]
    for key, rows in table.groupby(keys, sort=False):
        own = rows.set_index("area")
        cells = [*key, f"{own['real'].iloc[0]:.3f}"]
        for area in areas:
            text = f"{own.loc[area, 'ratio']:.2f}" if area in own.index else ""
            cells.append(f"**{text}**" if text and own.loc[area, "off"] else text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table and print what is off; return 0, or 2 for a mistake."""
    top = argparse.ArgumentParser(description="Ratios of the synthetic sample to real images.")
    top.add_argument("dataset", help="a sample: a folder under data/ or a path")
    real = os.environ.get("GLACIER_REAL_DATA")
    top.add_argument("--real", type=Path, default=real, help="folder of the development data")
    top.add_argument("--date", default="2023-08", help="of the sample (default: 2023-08)")
    top.add_argument("--out", type=Path, default=Path("reports/landscapes/realism.csv"),
                     help="of the table; a Markdown table is written beside it")  # fmt: skip
    options = top.parse_args(arguments)
    try:
        if options.real is None:
            raise GlacierError("name the development data: --real FOLDER (data/README.md)")
        table = compare(open_dataset(options.dataset), options.date, Path(options.real))
    except GlacierError as error:
        print(f"realism: {plain(error)}", file=sys.stderr)
        return 2
    write_csv(options.out, table)
    options.out.with_suffix(".md").write_text(markdown(table) + "\n", encoding="utf-8")
    print(markdown(table[table["off"]]))
    print(f"\n{table['off'].sum()} of {len(table)} ratios are off by more than a third")
    return 0


if __name__ == "__main__":
    sys.exit(main())
