"""Landscapes for a network that is to map real ice without one real label.

The sample shows one kind of image: Sentinel-2, 10 m, two dates of one summer, cloud masked. A
network that knows nothing else takes the grey tongue of another season for a lake, and cloud for
snow. So these landscapes differ as images of the world do: in height of the snow line and sun, in
the colour of bare ice, in resolution (10, 20, 30 and 60 m), and most of them lie under cloud that
no mask hides. The label is the surface: bare ice, snow on ice and debris on ice are glacier, that
of the ice sheet too; seasonal snow, floating ice and thick cloud are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import yaml
from affine import Affine
from scipy import ndimage

from glacier_utils.conventions import BANDS, SURFACES, UNKNOWN
from glacier_utils.datasets import PatchStore, build_patches, open_dataset
from glacier_utils.synthetic.glaciers import build_landscape
from glacier_utils.synthetic.rendering import Scene, Season, render
from glacier_utils.synthetic.sample import OFFSET, PATCH, SCALE, further_area
from glacier_utils.synthetic.terrain import power_noise

FACTORS = (1, 2, 3, 6)
"""Pixels of 10 m on a side of one of the image."""
SEASONS = 3  # of each landscape
LONGEST = 8  # patches on a side of an image: else 10 m would outnumber 60 m by far
CLOUDY = 0.6  # of the images
CODES = {name: code for code, name in SURFACES.items()}
ICE = [CODES[name] for name in ("bare ice", "snow on ice", "debris on ice")]


def make(folder: Path, count: int, seed: int, patches: int = 26) -> PatchStore:
    """Make landscapes and cut all of them into patches that train.

    Args:
        folder: of the dataset; new.
        count: of landscapes.
        seed: of all of them.
        patches: of 1.28 km, rows and columns of them in each.
    """
    folder.mkdir(parents=True)
    areas = {}
    with ThreadPoolExecutor(max_workers=2) as pool:
        jobs = [pool.submit(_landscape, folder, seed, number, patches) for number in range(count)]
        for job in jobs:
            areas.update(job.result())
    content = {
        "name": folder.name,
        "synthetic": True,
        "bands": list(BANDS),
        "reflectance": {"scale": SCALE, "offset": OFFSET, "nodata": 0},
        "areas": areas,
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return build_patches(
        open_dataset(folder), train_areas=list(areas), clouds="none", validation_fraction=0.1,
        progress=True,
    )  # fmt: skip


def _landscape(folder: Path, seed: int, number: int, patches: int) -> dict[str, dict]:
    """Make one landscape, write its images and their labels, return the manifest's areas."""
    rng = np.random.default_rng((seed, number, 4))
    area = further_area(seed, number + 2)
    setting = replace(
        area.setting, fraction_above=rng.uniform(0.1, 0.25), debris=rng.uniform(0.1, 0.4)
    )
    if number % 3 == 0:
        relief = replace(setting.relief, sheet_side=str(rng.choice(["north", "east", "south"])))
        setting = replace(setting, relief=relief)
    landscape = build_landscape(patches * PATCH, patches * PATCH, setting, rng)
    areas = {}
    for when in range(SEASONS):
        season = Season(
            f"2023-0{7 + when}", rng.uniform(38, 58), rng.uniform(150, 210),
            snow_line_m=rng.uniform(-150, 500), snow_age=rng.uniform(0.2, 1),
            green=rng.uniform(0.2, 0.8), sea_ice=rng.uniform(0, 0.03),
        )  # fmt: skip
        scene = render(landscape, area.look, season, (seed, number, 5, when))
        for name, image, label in _images(scene, rng):
            name = f"{number:02d}_{when}_{name}"
            place = Affine(10, 0, 12_000 * len(areas) + 440_000, 0, -10, 12_000 * number + 6.7e6)
            numbers = np.clip(np.rint(image * SCALE - OFFSET), 1, 65535).astype(np.uint16)
            for kind, array in (("image", numbers), ("label", label[None])):
                with rasterio.open(
                    folder / f"{name}_{kind}.tif", "w", driver="GTiff", dtype=array.dtype,
                    count=len(array), height=array.shape[1], width=array.shape[2],
                    crs="EPSG:32623", transform=place,
                ) as target:  # fmt: skip
                    target.write(array)
            files = {"images": f"{name}_image.tif", "labels": f"{name}_label.tif"}
            areas[name] = {season.date: files}
    return areas


def _images(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, reflectance [band, row, col] and label [row, col] of a part at each resolution.

    The pixels get other sizes, not the manifest: a network sees pixels, not metres.
    """
    image = _with_other_ice(scene, rng)
    ice = np.isin(scene.surface, ICE)
    for factor in FACTORS:
        side = min(LONGEST, ice.shape[0] // factor // PATCH) * PATCH
        if not side:
            continue
        row, col = rng.integers(0, ice.shape[0] - side * factor + 1, 2)
        part = np.s_[..., row : row + side * factor, col : col + side * factor]
        coarse = image[part].reshape(len(BANDS), side, factor, side, factor).mean((2, 4))
        label = ice[part].reshape(side, factor, side, factor).mean((1, 3)) >= 0.5
        if rng.random() < CLOUDY:
            coarse, cover = under_cloud(coarse, rng)
            label = np.where(cover > 0.6, 0, np.where((cover > 0.25) & label, UNKNOWN, label))
        yield f"{10 * factor}m", coarse, label.astype(np.uint8)


def _with_other_ice(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Return the reflectance with ice of other grain, wetness and dust, one for the whole scene.

    Water and coarse grains darken the near infrared (that of Athabasca Glacier in August is half
    as bright as the red, on the points of Alaska .6 to .9 of it), dust all bands; on snow less.
    """
    image = scene.reflectance.copy()
    tint = np.exp(rng.normal(0, 0.2)) * np.array([1, 1, 1, np.exp(rng.normal(-0.12, 0.2))])
    for name, part in (("bare ice", 1), ("snow on ice", 0.3)):
        own = scene.surface == CODES[name]
        for band, factor in zip(image, tint, strict=True):
            band[own] *= factor**part
    return image


def under_cloud(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an image under random cloud and its shadow, and how opaque the cloud is.

    Args:
        image: reflectance [band, row, col], bands as in ``BANDS``, columns a multiple of 8.
        rng: of its place, thickness, brightness, colour and texture.
    """
    shape = image.shape[1:]
    stretch = int(rng.choice([1, 2, 4, 8]))  # wind draws cloud out into streets
    size = (shape[0], shape[1] // stretch)
    longest = float(rng.choice([32, 64, 128, 256]))
    field = power_noise(size, rng, exponent=rng.uniform(1.5, 3.5), longest=longest)
    field = np.repeat(field, stretch, axis=1)
    field = ndimage.uniform_filter1d(field, stretch, axis=1)
    over = field - np.quantile(field, rng.uniform(0.3, 0.9))
    opaque = np.clip(over / rng.uniform(0.2, 1.2), 0, 1) * rng.uniform(0.5, 1)
    thick = np.clip(over / 3, 0, 1) * (1 + 0.1 * power_noise(shape, rng, exponent=1, longest=12))
    bright = rng.uniform(0.12, 0.5) + rng.uniform(0, 0.5) * thick
    colour = {"blue": 1.06, "green": 1.02, "red": 1.0, "nir": rng.uniform(0.88, 1.02)}
    shadow = np.roll(opaque, rng.integers(-12, 13, 2), (0, 1)) * rng.uniform(0.2, 0.7)
    image = image * (1 - shadow * (1 - opaque))
    for band, name in zip(image, BANDS, strict=True):
        band += opaque * (bright * (colour[name] + rng.normal(0, 0.02)) - band)
    return image, opaque
