"""A dataset: areas x dates x sources, as dataset.yaml describes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import shapely

from glacier_utils.conventions import date_in_name, nearest_date
from glacier_utils.datasets.manifest import Area, Entry, Layer, read_manifest
from glacier_utils.datasets.store import check_known
from glacier_utils.errors import GlacierError, did_you_mean
from glacier_utils.files import file_fingerprint, fingerprint
from glacier_utils.imagery.clouds import looks_inverted
from glacier_utils.imagery.examination import (
    ERROR,
    OTHER_RESOLUTION,
    WARNING,
    Finding,
    OffsetFinding,
    check_offset,
    examine,
)
from glacier_utils.imagery.safe import scene_classification_path
from glacier_utils.imagery.source import Source, band_names, input_files, open_source
from glacier_utils.imagery.warp import PiecewiseMask, describe_mismatch, open_map, warp_source
from glacier_utils.outlines.inventory import (
    read_outlines,
    resolve_overlaps,
    select_analyses,
    why_none,
)
from glacier_utils.outlines.rasterization import LabelAge, OutlineMask
from glacier_utils.outlines.reading import read_polygons
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.mask import CoveredMask, EdgeMask, IceOutsideMask, Mask, stored_values
from glacier_utils.raster.paths import files_behind, list_files

MANIFEST = "dataset.yaml"
_PROJECT = Path(__file__).resolve().parents[2]


def open_dataset(name_or_path: str | Path, *, root: str | Path | None = None) -> Dataset:
    """Open a dataset by the path of its folder or manifest, or by its name.

    Args:
        name_or_path: a path, or the name of a folder in ``<root>/data``.
        root: the project's folder; by default the working directory or the nearest folder above it
            that has the dataset, else the folder that the package lies in.

    Returns:
        The dataset, of whose images nothing is opened yet.

    Raises:
        GlacierError: there is no such dataset, or its manifest is wrong.
    """
    path = Path(name_or_path)
    for candidate in (path, path / MANIFEST):
        if candidate.is_file():
            return Dataset(candidate)
    if path.is_dir():
        raise GlacierError(f"{path}: this folder has no {MANIFEST}; write one (see data/README.md)")
    here = Path.cwd()
    roots = [here, *here.parents, _PROJECT] if root is None else [Path(root)]
    for folder in roots:
        candidate = folder / "data" / path / MANIFEST
        if candidate.is_file():
            return Dataset(candidate)
    known = sorted({item.parent.name for folder in roots
                    for item in folder.glob(f"data/*/{MANIFEST}")})  # fmt: skip
    hint = did_you_mean(path, known, none="there is none in data/ yet")
    if str(path) == "sample":
        hint = "make it with `glacier sample`"
    raise GlacierError(f"{name_or_path}: no such dataset; {hint}")


class Dataset:
    """Areas, dates and their sources. Nothing is opened before it is asked for.

    Attributes:
        name: of the dataset.
        path: of its manifest.
        folder: that its manifest lies in.
        bands: names in order.
        areas: names in the manifest's order.
        manifest: content of the file.
        synthetic: whether its images are made, not observed.
    """

    def __init__(self, path: Path) -> None:
        self._manifest, self._text, self.manifest = read_manifest(path)
        self.name = self._manifest.name
        self.synthetic = self._manifest.synthetic
        self.path = path
        self.folder = path.parent
        self.bands = band_names(self._manifest.bands)
        self.areas = tuple(self._manifest.areas)
        self._sources: dict[tuple[str, str], Source] = {}
        self._own: dict[tuple[str, str], Source] = {}
        self._outlines: dict[tuple, gpd.GeoDataFrame] = {}

    def __repr__(self) -> str:
        """Name the dataset and its areas."""
        areas = ", ".join(f"{area} ({', '.join(self.dates(area))})" for area in self.areas)
        return f"Dataset {self.name}: {areas}"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the manifest and of name, size and time of every file; reads no data.

        Raises:
            GlacierError: a file is missing.
        """
        files: set[Path] = set()
        for area in self._manifest.areas.values():
            for entry in area.entries.values():
                named = (entry.images, entry.labels, entry.truth, entry.surface, entry.clouds)
                for paths in (*named, _classification(entry)):
                    files.update(input_files(paths) if paths else ())
            for layer in (area.outlines, area.coverage, area.ice_outside):
                if isinstance(layer, Layer):
                    files.update(_vector_files(layer.file))
        stats = [file_fingerprint(path) for path in sorted(files)]
        return fingerprint({"manifest": self._text, "files": stats})

    def dates(self, area: str) -> tuple[str, ...]:
        """Return the dates of an area, sorted."""
        return tuple(self.settings(area).entries)

    def source(self, area: str, date: str) -> Source:
        """Open the image of an area at a date, cut to the area's bounds.

        With ``align`` in the area, all dates but the one it names are brought onto the grid of
        that date.
        """
        key = (area, date)
        if key not in self._sources:
            source, reference = self.unaligned(area, date), self.settings(area).align
            if reference not in (None, date):
                target = self.source(area, reference)
                with _named(f"{self.name}, {area}, {date}"):
                    source = warp_source(source, target.grid, tiles=target.tiles)
            source.synthetic |= self.synthetic
            self._sources[key] = source
        return self._sources[key]

    def mismatch(self, area: str, date: str, other: str) -> str:
        """Say how the grid of a date is not that of another, and what to do; "" if it is.

        The text goes after a name of the area and date.
        """
        how = describe_mismatch(self.source(area, date).grid, self.source(area, other).grid)
        return how and (
            f"its grid is not that of {other} ({how}), so the dates cannot be compared pixel by "
            f"pixel; add `align: {other}` to the area, and all its dates are brought onto the grid "
            "of that one"
        )

    def examine(self, area: str, date: str) -> list[Finding]:
        """Return what is wrong with an image or to be looked at; parts of it are read."""
        found = examine(self.unaligned(area, date))
        first, source = self.areas[0], self.source(area, date)
        here = source.grid.resolution
        with suppress(GlacierError, OSError):
            if (mask := self.clouds(area, date)) and (text := looks_inverted(source, mask)):
                found.append(Finding(WARNING, text))
            outlines = None if self.entry(area, date).labels else self.outlines(area, date)
            if outlines is not None and not (outlines.kind == "glacier").any():
                layer: Any = self.settings(area).outlines
                wrong, text = why_none(layer.file, layer.layer, source.grid)
                found.append(Finding(ERROR if wrong else WARNING, text))
        # What is wrong with the first area's own image is said there.
        with suppress(GlacierError, OSError):
            there = self.source(first, self.dates(first)[0]).grid.resolution
            if max(here / there, there / here) > OTHER_RESOLUTION:
                text = (
                    f"its pixels are {here:.3g} m, those of area {first} {there:.3g} m: a model "
                    "knows shapes by their size in pixels; bring the areas to one resolution "
                    "(gdalwarp -tr)"
                )
                found.append(Finding(WARNING, text))
        return found

    def radiometry(self, area: str, date: str) -> OffsetFinding:
        """Compare the values of an image with the offset claimed for it."""
        return check_offset(self.unaligned(area, date))

    def outlines(
        self, area: str, date: str | None = None, *, rule: str = "nearest"
    ) -> gpd.GeoDataFrame | None:
        """Return the outlines that touch an area, in the CRS of its image.

        Args:
            area: name of the area.
            date: for one analysis of each glacier, and no ground that belongs to two
                (``inventory.resolve_overlaps``); None for all, in the CRS of the first date.
            rule: that chooses the analysis (``inventory.select_analyses``).

        Returns:
            A table as of ``inventory.read_outlines``; None where the manifest names no outlines.

        Raises:
            GlacierError: the image has no CRS, or the file cannot be read.
        """
        layer = self.settings(area).outlines
        if layer is None:
            return None
        path, name = layer
        grid = self.source(area, date or self.dates(area)[0]).grid
        if grid.crs is None:
            raise GlacierError(
                f"{self.name}, {area}: the image has no CRS, so outlines cannot be laid on it; "
                "georeference the image, or give `labels` as rasters"
            )
        key = (layer, grid.crs.to_wkt(), grid.bounds)
        if key not in self._outlines:
            self._outlines[key] = read_outlines(path, bounds=grid.bounds, crs=grid.crs, layer=name)
        if date is None:
            return self._outlines[key].copy()
        chosen = (*key, date, rule)
        if chosen not in self._outlines:
            outlines = select_analyses(self._outlines[key], date, rule=rule)
            self._warn(area, date, [f"{path}: {line}" for line in outlines.attrs["report"]])
            self._outlines[chosen] = resolve_overlaps(outlines)
        return self._outlines[chosen].copy()

    def labels(self, area: str, date: str, *, rule: str = "nearest", band_m: float = 0.0) -> Mask:
        """Return the labels: 0 not glacier, 1 glacier, 255 unknown; made where they are read.

        Unknown are pixels outside the frame, outside the area's ``coverage``, in its
        ``ice_outside`` without an outline, and near the edge of the ice. Whether the image is valid
        there is the image's to say.

        Args:
            area: name of the area.
            date: of the image.
            rule: that chooses the analysis (``inventory.select_analyses``).
            band_m: nearer than this in m to the edge of the ice, pixels are unknown.

        Raises:
            GlacierError: the manifest names neither outlines nor labels, or they do not fit.
        """
        entry, source = self.entry(area, date), self.source(area, date)
        mask: Any
        if entry.labels:
            mask = self._mask(area, date, entry.labels, (0, 1), entry.label_values)
            mask = EdgeMask(mask, band_m) if band_m else mask
        else:
            outlines = self.outlines(area, date, rule=rule)
            if outlines is None:
                raise GlacierError(
                    f"{self.name}, {area}: has neither `outlines` nor `labels`; name one in "
                    f"{self.path}"
                )
            mask = OutlineMask(outlines, source.grid, band_m=band_m)
            own: Any = self.unaligned(area, date)
            if own.grid is source.grid and own.tiles and own.loose():
                masks = {tile.path: [mask.on(tile.grid)] for tile in own.placed}
                mask = PiecewiseMask(own, masks)
        outside = self.ice_outside(area, date)
        if outside is not None:
            mask = IceOutsideMask(mask, outside)
            if not outside.intersects(source.grid.box):
                text = "`ice_outside` does not touch the image, so it has no effect: check its CRS"
                self._warn(area, date, [text])
        coverage = _union(self.settings(area).coverage, source.grid)
        return mask if coverage is None else CoveredMask(mask, coverage)

    def ice_outside(self, area: str, date: str) -> shapely.Geometry | None:
        """Return where ice lies that the inventory leaves out, in the CRS of the image."""
        return _union(self.settings(area).ice_outside, self.source(area, date).grid)

    def one_class(self, area: str, date: str, ice: bool) -> str:
        """Say why labels may all be glacier (``ice``), or none of them, and what to do.

        The masks are read whole.
        """
        entry, what = self.entry(area, date), "glacier" if ice else "not glacier"
        if not entry.labels:
            return f"all its labels are {what}; take other outlines, or ground that has both"
        return (
            f"{entry.labels[0]}: all its labels are {what}: the masks hold "
            f"{stored_values(entry.labels)}; say what that means, as in label_values: "
            "{nodata: 0} or {255: 1}, or take ground that has both"
        )

    def label_age(self, area: str, date: str, *, rule: str = "nearest") -> LabelAge | None:
        """Return the age of the labels where they come from outlines, else None: nobody knows."""
        if self.entry(area, date).labels:
            return None
        outlines = self.outlines(area, date, rule=rule)
        return None if outlines is None else LabelAge(outlines, self.source(area, date).grid, date)

    def truth(self, area: str, date: str) -> Mask | None:
        """Return the true glacier mask (0, 1), None where nobody knows it: all but the sample."""
        return self._mask(area, date, self.entry(area, date).truth, (0, 1))

    def surface(self, area: str, date: str) -> Mask | None:
        """Return the map of surface classes (the sample's), None where there is none."""
        return self._mask(area, date, self.entry(area, date).surface, None)

    def scene_classification(self, area: str, date: str) -> Mask | None:
        """Return the scene classification (SCL, codes 0..11) on the image's grid, None without one.

        It comes from the manifest, else from the product that the image belongs to.
        """
        paths = _classification(self.entry(area, date))
        return self._mask(area, date, paths, range(12), drawn_on_it=False)

    def clouds(self, area: str, date: str) -> Mask | None:
        """Return the user's cloud mask (0 clear, 1 cloud, 2 shadow), None where there is none."""
        paths = self.entry(area, date).clouds
        return self._mask(area, date, paths, (0, 1, 2), drawn_on_it=False)

    def unaligned(self, area: str, date: str) -> Source:
        """Open the image of an area at a date on the grid of its own files, whatever ``align``."""
        key = (area, date)
        if key not in self._own:
            entry, settings = self.entry(area, date), self.settings(area)
            # The bounds are in the CRS of the date that the others are laid on.
            cut = settings.align in (None, date)
            with _named(f"{self.name}, {area}, {date}"):
                self._own[key] = open_source(
                    entry.images,
                    bands=entry.bands,
                    reflectance=entry.reflectance.rule,
                    bounds=settings.bounds if cut else None,
                    resolution=self._manifest.resolution,
                )
            if said := _another_day(self._own[key].paths, date):
                said += f", but the manifest's date is {date}; mend the wrong one"
                self._warn(area, date, [said])
        return self._own[key]

    def _mask(
        self,
        area: str,
        date: str,
        paths: list[str] | None,
        codes: Any,
        values: dict[int | str, int] | None = None,
        *,
        drawn_on_it: bool = True,
    ) -> Mask | None:
        """Open a mask of an image; of one drawn on its pixels, the image warns where it is not."""
        if not paths:
            return None
        own, notes = self.unaligned(area, date), list[str]()
        grid = self.source(area, date).grid
        mask = open_map(paths, grid, like=own, codes=codes, values=values, notes=notes)
        if not drawn_on_it:
            said = _another_day(list_files(paths), date_in_name(own.paths) or date)
            notes = [f"{said}, when clouds were others; name that of the day"] * bool(said)
        self._warn(area, date, notes)
        return mask

    def _warn(self, area: str, date: str, lines: Sequence[str]) -> None:
        own = self.unaligned(area, date)
        own.warnings = list(dict.fromkeys([*own.warnings, *lines]))

    def settings(self, area: str) -> Area:
        """Return what the manifest says of an area.

        Raises:
            GlacierError: there is no such area.
        """
        if area not in self._manifest.areas:
            hint = did_you_mean(area, self.areas)
            raise GlacierError(f"{self.name}: no area {area!r}; {hint}")
        return self._manifest.areas[area]

    def entry(self, area: str, date: str) -> Entry:
        """Return what the manifest says of an area at a date.

        Raises:
            GlacierError: there is no such area or date.
        """
        entries = self.settings(area).entries
        if date not in entries:
            # A date is near any other, so all are named.
            raise GlacierError(
                f"{self.name}, {area}: no date {date!r}; known are {', '.join(entries)}"
            )
        return entries[date]


def area_dates(
    dataset: Dataset, areas: Sequence[str], date: str, others: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Return which dates of each area are looked at, sorted: areas may have dates of their own.

    Args:
        dataset: an opened dataset.
        areas: of the dataset.
        date: the main one; an area without it is looked at on its own that is nearest.
        others: further dates; empty names are passed over.

    Raises:
        GlacierError: a date that no area has.
    """
    wanted = {date, *filter(None, others)}
    check_known("date", sorted(wanted), sorted({one for a in areas for one in dataset.dates(a)}))
    return {
        area: sorted({main} | (wanted & {*dataset.dates(area)}))
        for area, main in main_dates(dataset, areas, date).items()
    }


def main_dates(dataset: Dataset, areas: Sequence[str], date: str) -> dict[str, str]:
    """Return for each area that one of its dates which is nearest to a date."""
    return {area: nearest_date(dataset.dates(area), date) for area in areas}


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put a name in front of a message that does not say by itself which image it is about."""
    try:
        yield
    except GlacierError as error:
        raise GlacierError(f"{name}: {error}") from error


def _another_day(files: Sequence[Path], date: str) -> str:
    """Say which day, or month, the names of files tell, where it is not ``date``; else ""."""
    months = {*re.findall(r"(?<![\d-])20\d\d-(?:0[1-9]|1[0-2])(?![\d-])", files[0].parent.name)}
    day = date_in_name(files) or (months.pop() if len(months) == 1 else "")
    # Either may be a month alone.
    return f"{files[0]}: its name says {day}" * (day[: len(date)] != date[: len(day)])


def _classification(entry: Entry) -> list[str] | None:
    """Return the files of the scene classification, None where there is none."""
    if entry.scene_classification:
        return entry.scene_classification
    found = scene_classification_path(list_files(entry.images)[0])
    return None if found is None else [str(found)]


def _union(polygons: Layer | tuple | None, grid: Grid) -> shapely.Geometry | None:
    """Return polygons of the manifest in the CRS of an image."""
    if polygons is None:
        return None
    if not isinstance(polygons, Layer):
        return shapely.make_valid(shapely.Polygon(polygons))
    if grid.crs is None:
        raise GlacierError(f"{polygons.file}: cannot be laid on an image without CRS")
    found = read_polygons(polygons.file, bounds=grid.bounds, crs=grid.crs, layer=polygons.layer)
    return shapely.union_all(found.geometry.to_numpy())


def _vector_files(path: Path) -> list[Path]:
    if not path.exists():
        raise GlacierError(f"{path}: no such file; check the path in the manifest")
    return files_behind([path])
