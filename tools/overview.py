"""Draw the picture of the README from a run: image, outlines and map of an unseen glacier.

python tools/overview.py [RUN] [TARGET]      # default: default docs/images/overview.png
python tools/overview.py full_tile docs/images/full_tile.jpg    # the large scene of a run (06)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import PIL.Image
import rasterio
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib_scalebar.scalebar import ScaleBar

from glacier_utils.plotting.maps import extent_km
from glacier_utils.plotting.style import CLASS_COLOURS, OUTLINE_COLOUR, composite
from glacier_utils.workflow import runs

WIDTH_INCHES, DPI = 10.5, 120


def draw(run: runs.Run, area: str, date: str) -> Figure:
    """Draw an area on a date as image, with the inventory's outlines, and with the mapped glaciers.

    Args:
        run: With the maps of notebook 06.
        area: One that no model has learned from.
        date: One of its dates.
    """
    name = run.read_record()["parameters"]["dataset"]
    with rasterio.open(run.maps / f"{area}_{date}_image.tif") as file:
        image, bands, bounds = file.read(), file.descriptions, file.bounds
        valid = ~np.isnan(image).any(axis=0)
    with rasterio.open(run.maps / f"{area}_{date}_class.tif") as file:
        mapped, model = file.read(1) == 1, file.tags()["MODEL"]
    picture = composite(np.nan_to_num(image), bands, valid=valid)
    inventory = runs.open_data(name).outlines(area, date)
    rows, cols = mapped.shape
    height = WIDTH_INCHES / 3 * rows / cols + 0.75
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = figure.subplots(1, 3)
    titles = (f"image, {date}", "outlines of the inventory", f"map by {model}")
    for ax, title in zip(axes, titles, strict=True):
        ax.imshow(picture, extent=extent_km(bounds))
        ax.set_title(title, fontsize=11)
        ax.set_axis_off()
    if inventory is not None:
        lines = inventory.geometry.boundary.scale(0.001, 0.001, origin=(0, 0))
        lines.plot(ax=axes[1], color=OUTLINE_COLOUR, linewidth=1)
    xmin, xmax, ymin, ymax = extent_km(bounds)
    axes[1].set(xlim=(xmin, xmax), ylim=(ymin, ymax))
    colour = np.array([int(CLASS_COLOURS["glacier"][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    shade = np.zeros((rows, cols, 4))
    shade[mapped] = [*colour, 0.65]
    axes[2].imshow(shade, extent=extent_km(bounds))
    axes[0].add_artist(ScaleBar(1, "km", location="lower right", box_alpha=0.8))
    if name == "sample":
        axes[0].text(0.02, 0.02, "synthetic sample", transform=axes[0].transAxes, fontsize=10,
                     bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none"})  # fmt: skip
    handles = [
        Line2D([], [], color=OUTLINE_COLOUR, linewidth=2, label="glacier in the inventory"),
        Patch(color=CLASS_COLOURS["glacier"], label="mapped as glacier"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def main(name: str = "default", target: str = "docs/images/overview.png") -> None:
    """Write the picture of a run's first test area on its main date."""
    run = runs.Run(runs.project_root() / "reports" / name)
    parameters = run.read_record()["parameters"]
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    if large := parameters.get("large_scene"):
        with PIL.Image.open(run.figures / f"map_{large}.png") as drawn:
            drawn.convert("RGB").save(path, quality=80, optimize=True)
        return
    figure = draw(run, parameters["test_areas"][0], parameters["main_date"])
    figure.savefig(path, dpi=DPI)
    with PIL.Image.open(path) as drawn:
        reduced = drawn.convert("RGB").quantize(256)
    reduced.save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
