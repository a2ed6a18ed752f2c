"""Which scenes to map: paths, patterns, text files with a path a line, saved STAC searches.

A STAC file is text by third parties. Its addresses are followed to the web (http, https) and to
files in or below the folder of the STAC file itself, nowhere else; its names become plain file
names.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd

from glacier_utils.conventions import BANDS
from glacier_utils.errors import GlacierError
from glacier_utils.files import file_name
from glacier_utils.imagery.catalogue import (
    ASSETS,
    UnusableItemError,
    is_web_address,
    known_offset,
    public_address,
)
from glacier_utils.outlines.reading import clean_text
from glacier_utils.raster.paths import SUFFIXES, is_virtual, list_files, read_bytes, without_maps

_LARGEST_JSON = 500_000_000  # bytes
_LONGEST_NAME = 120
RESERVED = ("mosaic",)  # what the results of all scenes together are called
_STATES_OFFSET = ("s2:processing_baseline", "processing:version", "earthsearch:boa_offset_applied")


@dataclass(frozen=True)
class SceneRef:
    """One scene to be mapped.

    Attributes:
        name: plain file name that its products start with.
        images: what ``source.open_source`` takes: a path or pattern, or a tuple of these.
        date: YYYY-MM-DD, "" where the list does not tell.
        bands: band -> file name, None where the file names tell.
        scale, offset: reflectance = (number + offset) / scale, None where the list does not tell.
    """

    name: str
    images: str | tuple[str, ...]
    date: str = ""
    bands: Mapping[str, str] | None = field(default=None, hash=False)
    scale: float | None = None
    offset: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the list tells of the scene, as keyword arguments of the mapping."""
        told = {"date": self.date or None, "bands": self.bands, "scale": self.scale,
                "offset": self.offset}  # fmt: skip
        return {key: value for key, value in told.items() if value is not None}

    @property
    def on_the_web(self) -> bool:
        """Say whether any part of it is fetched over the network."""
        images = [self.images] if isinstance(self.images, str) else self.images
        return any(
            is_web_address(image) or (is_virtual(image) and "/vsicurl/" in image)
            for image in images
        )


def list_scenes(named: str | Path | Iterable[str | Path | SceneRef]) -> list[SceneRef]:
    """Return the scenes that arguments mean, in their order, each with a name of its own.

    An argument is a ``SceneRef``, a text file (.txt) with an argument a line (relative to its
    folder; empty lines and those that start with # are skipped), STAC JSON (``read_scenes``), or
    one scene: a file, a folder, a SAFE folder, an archive, a pattern or a web address. A scene that
    is named twice counts once.

    Raises:
        GlacierError: nothing is named, a list cannot be read, a scene is not there.
    """
    if isinstance(named, str | Path | SceneRef):
        named = [named]
    named = list(named)
    files = [Path(item) for item in named if not isinstance(item, SceneRef)]
    if maps := set(files) - set(without_maps(files)):
        logging.getLogger(__name__).warning(
            f"left out, {len(maps)} maps of an earlier run among the scenes, such as {min(maps)}"
        )
    found: dict[Any, SceneRef] = {}
    for item in named:
        if not isinstance(item, SceneRef) and Path(item) in maps:
            continue
        for scene in [item] if isinstance(item, SceneRef) else _meant(str(item)):
            found.setdefault(scene.images, scene)
    if not found:
        raise GlacierError("no scene is named; name files, folders, a .txt list or STAC JSON")
    return _named_apart(list(found.values()))


def public_names(images: str | Path | Iterable[str | Path]) -> list[str]:
    """Return where images come from, without the signatures of web addresses."""
    names = [str(images)] if isinstance(images, str | Path) else list(map(str, images))
    return [public_address(name) if is_web_address(name) else name for name in names]


def read_scenes(path: str | Path) -> list[SceneRef]:
    """Read the scenes of a saved STAC search or of an item.

    Args:
        path: JSON with a FeatureCollection (ItemCollection) or an item.

    Returns:
        A scene an item, in order: its four bands' addresses (by the asset keys of
        ``catalogue.ASSETS``), date, and scale and offset where baseline or raster extension tell
        (``catalogue.known_offset``).

    Raises:
        GlacierError: no STAC, no items, an item without one of the bands, or an address that is
            neither on the web nor in the folder of the file.
    """
    path = Path(path)
    items = _items(path)
    if not items:
        raise GlacierError(f"{path}: holds no STAC items; save a search that finds some")
    return _named_apart([_scene(item, path) for item in items])


def _meant(text: str) -> list[SceneRef]:
    path = Path(text)
    if path.suffix.lower() == ".txt":
        return _read_lines(path)
    if path.suffix.lower() in (".json", ".geojson") and not is_virtual(text):
        return read_scenes(path)
    # Before the work of hours, not in the middle of it.
    list_files(text)
    return [SceneRef(_name_of(text), text)]


def _read_lines(path: Path) -> list[SceneRef]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GlacierError(f"{path}: cannot be read as a list of scenes ({error})") from error
    scenes: list[SceneRef] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if line.lower().endswith(".txt"):
            raise GlacierError(f"{path}, line {number}: a list must not name another list")
        try:
            scenes += _meant(line if is_virtual(line) else os.path.join(path.parent, line))
        except GlacierError as error:
            raise GlacierError(f"{path}, line {number}: {error}") from error
    if not scenes:
        raise GlacierError(f"{path}: names no scene; write a path a line")
    return scenes


def _name_of(text: str) -> str:
    """Name a scene by the last part of its path that is no pattern."""
    plain = urlsplit(text).path if is_web_address(text) else text
    parts = [part for part in re.split(r"[/\\]", unquote(plain)) if part not in ("", ".", "..")]
    fixed = [part for part in parts if not glob.has_magic(part)] or ["scene"]
    if Path(text).is_dir() and not Path(text).name:
        fixed = [Path(text).resolve().name]
    last = fixed[-1]
    known = {*SUFFIXES, ".safe", ".zip"}
    return _plain_name(Path(last).stem if Path(last).suffix.lower() in known else last)


def _plain_name(text: str) -> str:
    """Return a name that is a plain file name everywhere; never empty, hidden or reserved."""
    name = re.sub(r"\s+", "_", file_name(clean_text(text, _LONGEST_NAME))).strip("._")
    return f"{name}_scene" if name.lower() in RESERVED else name or "scene"


def _named_apart(scenes: Sequence[SceneRef]) -> list[SceneRef]:
    """Give scenes of one name that of their folder too, and a number where that is not enough.

    Names that differ by case alone are the same file on some systems.
    """
    seen = Counter(scene.name.lower() for scene in scenes)
    names: dict[str, str] = {}
    for scene in scenes:
        name = scene.name if seen[scene.name.lower()] == 1 else _with_folder(scene)
        name = _numbered(name, set(names))
        names[name.lower()] = name
    return [replace(scene, name=name) for scene, name in zip(scenes, names.values(), strict=True)]


def _with_folder(scene: SceneRef) -> str:
    first = scene.images if isinstance(scene.images, str) else scene.images[0]
    folder = Path(first).absolute().parent.name
    return scene.name if is_virtual(first) else _plain_name(f"{folder}_{scene.name}")


def _numbered(name: str, taken: set[str]) -> str:
    number, result = 1, name
    while result.lower() in taken:
        number += 1
        result = f"{name}_{number}"
    return result


def _items(path: Path) -> list[Any]:
    if not path.is_file():
        raise GlacierError(f"{path}: no such file; check the path")
    try:
        content = json.loads(read_bytes(path, _LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise GlacierError(f"{path}: is no valid JSON; save the search again") from error
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        items = content.get("features")
        return items if isinstance(items, list) else []
    if isinstance(content, dict) and content.get("type") == "Feature":
        return [content]
    raise GlacierError(
        f"{path}: holds no STAC items; scenes are read from an item or a FeatureCollection of "
        "items, as a search gives"
    )


def _scene(item: Any, path: Path) -> SceneRef:
    name = clean_text(item.get("id") if isinstance(item, dict) else None)
    where = f"{path}, item {name or 'without id'}"
    if not isinstance(item, dict) or not isinstance(item.get("properties"), dict):
        raise GlacierError(f"{where}: is no STAC item (it has no properties)")
    found = [_asset(band, item.get("assets"), where) for band in BANDS]
    images = [_address(asset["href"], path, where) for asset in found]
    files = [list_files(image)[0].name for image in images]
    if len(set(files)) < len(files):
        raise GlacierError(
            f"{where}: its bands are files of the same name in different folders; give them "
            "different names"
        )
    scale, offset = _scaling(item, found, where)
    return SceneRef(
        name=_plain_name(name or "item"),
        images=tuple(images),
        date=_date(item["properties"]),
        bands=dict(zip(BANDS, files, strict=True)),
        scale=scale,
        offset=offset,
    )


def _asset(band: str, assets: Any, where: str) -> dict[str, Any]:
    for key in ASSETS[band]:
        asset = assets.get(key) if isinstance(assets, dict) else None
        if isinstance(asset, dict) and isinstance(asset.get("href"), str):
            return asset
    raise GlacierError(
        f"{where}: has no asset for the band {band} (looked for {', '.join(ASSETS[band])}); take "
        "another collection"
    )


def _address(href: str, path: Path, where: str) -> str:
    """Return the web address or the file that an asset is at, if it may be followed."""
    if is_web_address(href):
        return href
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):", href)
    shown = clean_text(href, 160)
    if scheme and scheme[1].lower() != "file":
        raise GlacierError(
            f"{where}: its asset is at {shown!r}, which is not followed; save the search with "
            "addresses that start with https://, or download the files beside the list"
        )
    local = Path(unquote(urlsplit(href).path) if scheme else href)
    folder = path.parent.resolve()
    file = (folder / local).resolve()
    if not file.is_relative_to(folder):
        raise GlacierError(
            f"{where}: its asset is at {shown!r}, outside the folder of the list; put the files "
            "into that folder"
        )
    if not file.is_file():
        raise GlacierError(f"{where}: its asset {shown!r} is not in the folder of the list")
    return str(file)


def _scaling(
    item: dict[str, Any], assets: Sequence[dict[str, Any]], where: str
) -> tuple[float | None, float | None]:
    """Return scale and offset that the item tells; None where it says nothing of them."""
    told = any(key in item["properties"] for key in _STATES_OFFSET) or any(
        "offset" in json.dumps(asset) for asset in assets
    )
    if not told:
        return None, None
    try:
        return 10000.0, float(known_offset(item, assets)[0])
    except UnusableItemError as error:
        raise GlacierError(
            f"{where}: {error}; state --scale and --offset for its files instead of the list"
        ) from error


def _date(properties: Mapping[str, Any]) -> str:
    for key in ("datetime", "start_datetime"):
        moment = pd.to_datetime(properties.get(key), errors="coerce", utc=True)
        if isinstance(moment, pd.Timestamp) and not pd.isna(moment):
            return moment.strftime("%Y-%m-%d")
    return ""
