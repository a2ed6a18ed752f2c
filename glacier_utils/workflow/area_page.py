"""The interactive map of one area: two dates to swipe between, and all that is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from glacier_utils.change.transition import transition
from glacier_utils.conventions import SYNTHETIC
from glacier_utils.outlines.matching import assign_ids
from glacier_utils.outlines.reading import in_crs, polygonal
from glacier_utils.plotting import style
from glacier_utils.plotting.webmap import (
    Layer,
    Outlines,
    Picture,
    change_map,
    class_map,
    error_map,
    uncertainty_map,
    write_map,
)
from glacier_utils.prediction.scenes import Product
from glacier_utils.prediction.stac import read_item
from glacier_utils.raster.grid import Grid, Image

PREDICTED_COLOUR = "#cc79a7"
INVENTORY_COLOUR = "#f0e442"
PREDICTED_FIELDS = {
    "glacier_id": "Inventory id",
    "area_km2": "Mapped area (km², ± outline moved by a pixel)",
    "inventory_km2": "Area in the inventory (km²)",
    "inventory_date": "Date of the inventory's image",
    "image_date": "Date of this image",
}
INVENTORY_FIELDS = {
    "glacier_id": "Inventory id",
    "area_km2": "Area (km²)",
    "source_date": "Date of the image",
    "uncertainty_m": "Stated uncertainty of the outline (m)",
}


@dataclass(frozen=True)
class Mapped:
    """One date of an area on the map's grid.

    Attributes:
        date: as it is shown.
        image: the satellite image.
        product: what was predicted from it.
    """

    date: str
    image: Image
    product: Product


def write_swipe_map(
    path: str | Path,
    dates: Sequence[Mapped],
    *,
    title: str,
    label: np.ndarray | None = None,
    inventory: gpd.GeoDataFrame | None = None,
    ice_outside: shapely.Geometry | None = None,
) -> Path:
    """Write the interactive map of an area as one HTML file.

    Args:
        path: of the file.
        dates: one or two, the earlier first: the map has a swipe where there are two.
        title: heads the page.
        label: uint8 [row, col]: 0, 1, 255, what the predictions are compared with.
        inventory: outlines of `Dataset.outlines`, one analysis per glacier: predicted ice is cut
            along their divides, and each part says which glacier it is.
        ice_outside: of `Dataset.ice_outside`: ice there that lies in no outline is no glacier's.

    Returns:
        The path.

    Raises:
        GlacierError: as `webmap.write_map`.
        ValueError: no date, or more than two.
    """
    if not 1 <= len(dates) <= 2:
        raise ValueError(f"{len(dates)} dates: the map compares two, or shows one")
    grid = dates[0].image.grid
    if any("glacier:synthetic" in read_item(one.product.files["item"])[0] for one in dates):
        title += f" ({SYNTHETIC})"
    pictures = style.pictures([one.image.reflectance for one in dates], dates[0].image.bands)
    views = [Picture(shown, one.image.valid) for shown, one in zip(pictures, dates, strict=True)]
    doubts = [uncertainty_map(one.product.probability()) for one in dates]
    layers = [
        Layer("Satellite image", *views, shown=True),
        Layer("Uncertainty of the prediction", *doubts),
        Layer("Predicted class", *(class_map(one.product.mask) for one in dates)),
    ]
    if label is not None:
        errors = [error_map(one.product.mask, label) for one in dates]
        layers.append(Layer("Prediction against labels", *errors))
        layers.append(Layer("Labels", class_map(label)))
    if len(dates) == 2:
        change = transition(dates[0].product.mask, dates[1].product.mask)
        layers.append(Layer(f"Difference, {dates[0].date} to {dates[1].date}", change_map(change)))
    if inventory is not None and len(inventory):
        about = {key: text for key, text in INVENTORY_FIELDS.items() if key in inventory}
        # Days, not times: the dates of satellite images.
        table = inventory.assign(source_date=_days(inventory["source_date"]))
        content = Outlines(table, about, title="name", colour=INVENTORY_COLOUR)
        layers.append(Layer("Inventory outlines", content, shown=True))
    outlines = [
        Outlines(
            named_outlines(one.product.outlines, inventory, grid, one.date, ice_outside),
            PREDICTED_FIELDS,
            title="name",
            plus_minus={"area_km2": "uncertainty_km2"},
            colour=PREDICTED_COLOUR,
        )
        for one in dates
    ]
    layers.append(Layer("Predicted glaciers", *outlines, shown=True))
    if len(dates) == 1:
        return write_map(path, grid, layers, title=title)
    note = "What differs within a summer is snow, shadow and the method's own error."
    days = (dates[0].date, dates[1].date)
    return write_map(path, grid, layers, title=title, dates=days, notes=[note])


def named_outlines(
    outlines: gpd.GeoDataFrame,
    inventory: gpd.GeoDataFrame | None,
    grid: Grid,
    date: str = "",
    ice_outside: shapely.Geometry | None = None,
) -> gpd.GeoDataFrame:
    """Give predicted ice the names of the inventory's glaciers, and areas with their uncertainty.

    Args:
        outlines: predicted polygons in a projected CRS, with area_km2.
        inventory: of `Dataset.outlines`; None: each polygon is a glacier without a name.
        grid: of the map; the uncertainty is the perimeter times one of its pixels, by which the
            outline may be off (the buffer method, Granshaw & Fountain 2006).
        date: of the image, kept in ``image_date``.
        ice_outside: where ice lies that the inventory leaves out. What is mapped there and lies in
            no outline is one row, ``outside``: it would else make its neighbours larger.

    Returns:
        A row per glacier, the largest first, ``outside`` at the end: glacier_id, name, area_km2,
        uncertainty_km2, inventory_km2, inventory_date ("" unknown), image_date, listed, geometry.
    """
    if inventory is not None and len(inventory):
        ice = inventory[inventory["kind"] == "glacier"]
        beyond = shapely.Polygon()
        if ice_outside is not None:
            beyond = ice_outside.difference(in_crs(ice, grid.crs).union_all())
        inside = outlines.difference(beyond)
        rest = polygonal(outlines.intersection(beyond).union_all())
        named = assign_ids(
            outlines.set_geometry(inside)[~inside.is_empty], inventory, step_m=grid.resolution
        )
        if rest.area:
            km2 = rest.area * grid.metres_per_unit**2 / 1e6
            row = {"glacier_id": "outside", "name": "ice outside the inventory", "listed": False}
            more = gpd.GeoDataFrame([row | {"area_km2": km2, "geometry": rest}], crs=outlines.crs)
            named = pd.concat([named, more], ignore_index=True)
        known = ice.drop_duplicates("glacier_id").set_index("glacier_id")
        areas = ice.groupby("glacier_id")["area_km2"].sum()
        named["inventory_km2"] = named["glacier_id"].map(areas)
        named["inventory_date"] = _days(named["glacier_id"].map(known["source_date"]))
    else:
        named = outlines.reset_index(drop=True).assign(
            glacier_id=[f"{number}" for number in range(1, len(outlines) + 1)],
            name="", listed=False, inventory_km2=np.nan, inventory_date="",
        )  # fmt: skip
    metres = grid.metres_per_unit
    named["uncertainty_km2"] = named.length * metres * grid.resolution / 1e6
    named["image_date"] = date
    columns = ["glacier_id", "name", "area_km2", "uncertainty_km2", "inventory_km2",
               "inventory_date", "image_date", "listed", "geometry"]  # fmt: skip
    return named[columns]


def _days(times: pd.Series) -> list[str]:
    """Return dates as YYYY-MM-DD, "" where unknown."""
    return ["" if time != time else f"{time:%Y-%m-%d}" for time in times]
