"""dataset.yaml: read, checked down to the last key, paths made whole."""

from __future__ import annotations

import datetime
import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from glacier_utils.conventions import image_day
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import band_names
from glacier_utils.raster.paths import is_virtual

_TOP_KEYS = ("name", "description", "bands", "reflectance", "resolution", "outlines", "areas")
_AREA_KEYS = ("bounds", "outlines", "coverage", "ice_outside", "align")
_FILE_KEYS = ("images", "labels", "truth", "surface", "scene_classification", "clouds")
_ENTRY_KEYS = (*_FILE_KEYS, "label_values", "reflectance", "bands")
_REFLECTANCE_KEYS = tuple(field.name for field in fields(Reflectance))
_MOST_VALUES = 100_000
DEFAULT_BANDS = ("red", "green", "blue", "nir")


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one area at one date; paths are whole."""

    images: list[str]
    bands: Any
    reflectance: Reflectance
    labels: list[str] | None = None
    truth: list[str] | None = None
    surface: list[str] | None = None
    scene_classification: list[str] | None = None
    clouds: list[str] | None = None
    # Class that each stored value of ``labels`` means; None: as they are.
    label_values: dict[int, int] | None = None


@dataclass(frozen=True)
class Area:
    """What the manifest says of one area; paths are whole."""

    entries: dict[str, Entry]
    bounds: tuple[float, ...] | None = None
    outlines: Path | None = None
    # Vector files, or the corners (x, y) of one polygon in the image's CRS: what the inventory
    # knows, and ice that it does not hold.
    coverage: Path | tuple[tuple[float, float], ...] | None = None
    ice_outside: Path | tuple[tuple[float, float], ...] | None = None
    # The date whose grid all others are brought onto; None leaves each on its own.
    align: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A checked dataset.yaml."""

    path: Path
    text: str
    content: dict[str, Any]
    name: str
    bands: tuple[str, ...]
    resolution: float | None
    areas: dict[str, Area]


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice, of which YAML would silently keep the last.

    It refuses aliases that stand for each other until a few lines mean a billion values, too.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        if _values(node, {}) > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"its aliases (*) stand for more than {_MOST_VALUES} values; write out "
                "what is needed", node.start_mark,
            )  # fmt: skip
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key_node.tag != "tag:yaml.org,2002:merge" and str(key) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(str(key))
        return super().construct_mapping(node, deep)


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values below a node, each alias as what it stands for."""
    if id(node) not in known:
        known[id(node)] = 1  # met again below itself, it counts once
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = isinstance(node, yaml.MappingNode)
        inner = [item for pair in inner for item in pair] if pairs else inner
        known[id(node)] = 1 + sum(_values(item, known) for item in inner)
    return known[id(node)]


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest; the files it names are not touched.

    Raises:
        GlacierError: whatever is wrong with it, with the file's name in front.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise GlacierError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise GlacierError(f"{path}: is not readable YAML{where}: {problem}") from error
    except RecursionError as error:
        raise GlacierError(f"{path}: is not readable YAML: its brackets are nested too deep; "
                           "mend them") from error  # fmt: skip
    except ValueError as error:
        # A number or a date that YAML takes for one and Python does not.
        raise GlacierError(f"{path}: holds a number or date that is none ({error}); a date is "
                           "2023-08 or 2023-08-24") from error  # fmt: skip
    try:
        return _checked(path, text, content)
    except GlacierError as error:
        raise GlacierError(f"{path}: {error}") from error


def _checked(path: Path, text: str, content: Any) -> Manifest:
    if not isinstance(content, dict):
        raise GlacierError("holds no mapping; it needs at least `areas`")
    _check_keys(content, _TOP_KEYS, "the manifest")
    folder = path.parent
    bands = content.get("bands", list(DEFAULT_BANDS))
    names = band_names(bands)
    reflectance = _reflectance(content.get("reflectance"), Reflectance(), "reflectance")
    areas = content.get("areas")
    if not isinstance(areas, dict) or not areas:
        raise GlacierError("needs `areas`, a mapping from area to dates to images")
    resolution = content.get("resolution")
    if resolution is not None:
        resolution = _number(resolution, "resolution")
        if resolution <= 0:
            raise GlacierError(f"resolution: {resolution} must be above 0 (m per pixel)")
    common = {"bands": bands, "reflectance": reflectance, "outlines": content.get("outlines")}
    return Manifest(
        path=path,
        text=text,
        content=content,
        name=str(content.get("name") or folder.resolve().name),
        bands=names,
        resolution=resolution,
        areas={str(area): _area(str(area), value, common, folder) for area, value in areas.items()},
    )


def _area(name: str, content: Any, common: Mapping[str, Any], folder: Path) -> Area:
    what = f"areas: {name}"
    if not re.fullmatch(r"\w[\w .,+()-]*", name):
        raise GlacierError(
            f"areas: {name!r}: files are named by the area, so its name may hold only letters, "
            "digits, spaces and _ . , + - ( )"
        )
    if not isinstance(content, dict):
        raise GlacierError(f"{what}: must map dates to images, as in 2023-08: images/*.tif")
    settings = {key: value for key, value in content.items() if key in _AREA_KEYS}
    dated = {_date(key, what): key for key in content if key not in _AREA_KEYS}
    if not dated:
        raise GlacierError(f"{what}: has no dates; give at least one, as in 2023-08: images/*.tif")
    outlines = settings.get("outlines", common["outlines"])
    return Area(
        entries={
            date: _entry(f"{what}: {date}", content[dated[date]], common, folder)
            for date in sorted(dated)
        },
        bounds=_bounds(settings.get("bounds"), what),
        outlines=None if outlines is None else Path(_path(outlines, f"{what}: outlines", folder)),
        coverage=_polygons(settings.get("coverage"), f"{what}: coverage", folder),
        ice_outside=_polygons(settings.get("ice_outside"), f"{what}: ice_outside", folder),
        align=_align(settings.get("align"), tuple(sorted(dated)), what),
    )


def _date(key: Any, what: str) -> str:
    # YAML reads 2023-08-24 as a date and 2023-08 as text.
    text = key.isoformat() if isinstance(key, datetime.date) else key
    if isinstance(text, str) and not re.match(r"\d", text):
        near = difflib.get_close_matches(text, _AREA_KEYS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_AREA_KEYS)}"
        raise GlacierError(f"{what}: {text!r} is neither a date nor a known key; {hint}")
    try:
        image_day(text)
    except GlacierError as error:
        raise GlacierError(f"{what}: {error}") from None
    return text


def _align(content: Any, dates: tuple[str, ...], what: str) -> str | None:
    text = content.isoformat() if isinstance(content, datetime.date) else content
    if text is not None and text not in dates:
        raise GlacierError(
            f"{what}: align: {text!r} is none of its dates ({', '.join(dates)}); name the one "
            "whose grid the others are to be brought onto"
        )
    return text


def _entry(what: str, content: Any, common: Mapping[str, Any], folder: Path) -> Entry:
    if not isinstance(content, dict):
        content = {"images": content}
    _check_keys(content, _ENTRY_KEYS, what)
    if "images" not in content:
        raise GlacierError(f"{what}: needs `images`")
    bands = content.get("bands", common["bands"])
    names = band_names(bands)
    if names != band_names(common["bands"]):
        raise GlacierError(
            f"{what}: its bands {list(names)} are not those of the dataset "
            f"{list(common['bands'])}; all dates need the same names in the same order"
        )
    paths = {
        key: _paths(content[key], f"{what}: {key}", folder)
        for key in _FILE_KEYS
        if content.get(key) is not None
    }
    if not paths.get("images"):
        raise GlacierError(f"{what}: `images` names nothing")
    reflectance = _reflectance(
        content.get("reflectance"), common["reflectance"], f"{what}: reflectance"
    )
    values = _label_values(content.get("label_values"), f"{what}: label_values")
    return Entry(bands=bands, reflectance=reflectance, label_values=values, **paths)


def _label_values(content: Any, what: str) -> dict[int, int] | None:
    if content is None:
        return None
    good = isinstance(content, dict) and all(
        type(value) is int and type(meant) is int and value >= 0 and meant in (0, 1, 255)
        for value, meant in content.items()
    )
    if not good:
        raise GlacierError(
            f"{what}: must map the values of the files to 0 (not glacier), 1 (glacier) or 255 "
            "(unknown), as in {0: 0, 255: 1}"
        )
    return dict(content)


def _reflectance(content: Any, default: Reflectance, what: str) -> Reflectance:
    """Return ``default`` with what ``content`` says otherwise."""
    if content is None:
        return default
    if not isinstance(content, dict):
        raise GlacierError(f"{what}: must be a mapping such as {{scale: 10000, offset: -1000}}")
    _check_keys(content, _REFLECTANCE_KEYS, what)
    given = {
        key: None if key == "nodata" and value is None else _number(value, f"{what}: {key}")
        for key, value in content.items()
    }
    kept = {key: getattr(default, key) for key in _REFLECTANCE_KEYS}
    return Reflectance(**{**kept, **given})


def _bounds(content: Any, what: str) -> tuple[float, ...] | None:
    if content is None:
        return None
    if not isinstance(content, list) or len(content) != 4:
        raise GlacierError(f"{what}: bounds: {content!r} must be [xmin, ymin, xmax, ymax]")
    xmin, ymin, xmax, ymax = (_number(value, f"{what}: bounds") for value in content)
    if not (xmin < xmax and ymin < ymax):
        raise GlacierError(f"{what}: bounds: {content} need xmin < xmax and ymin < ymax")
    return xmin, ymin, xmax, ymax


def _polygons(content: Any, what: str, folder: Path) -> Any:
    if content is None or isinstance(content, str):
        return None if content is None else Path(_path(content, what, folder))
    corners = isinstance(content, list) and len(content) >= 3
    if not corners or not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
        raise GlacierError(
            f"{what}: must be a file of polygons, or the corners of one as "
            "[[x, y], [x, y], [x, y], ...] in the image's CRS"
        )
    return tuple((_number(x, what), _number(y, what)) for x, y in content)


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GlacierError(f"{what}: {value!r} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    # Images do mark missing pixels by nan.
    if not (math.isfinite(number) or what.endswith("nodata")):
        raise GlacierError(f"{what}: {str(value)[:20]} must be a finite number")
    return number


def _paths(content: Any, what: str, folder: Path) -> list[str]:
    items = content if isinstance(content, list) else [content]
    return [_path(item, what, folder) for item in items]


def _path(content: Any, what: str, folder: Path) -> str:
    """Return a path with its variables filled in, from the manifest's folder if it is relative.

    Web addresses and GDAL's own paths stay as they are.
    """
    if not isinstance(content, str) or not content or "\0" in content:
        raise GlacierError(f"{what}: {content!r} is not a path")

    def value(match: re.Match) -> str:
        found = os.environ.get(match[1])
        if not found:
            raise GlacierError(
                f"{what}: the environment variable {match[1]} is not set; set it to the folder it "
                f"stands for, as in {match[1]}=/path/to/data"
            )
        return found

    text = re.sub(r"\$\{(\w+)\}", value, content)
    if is_virtual(text):
        return text
    return str(folder / Path(text).expanduser())


def _check_keys(content: Mapping[Any, Any], known: Iterable[str], what: str) -> None:
    known = tuple(known)
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise GlacierError(f"{what}: unknown key {key!r}; {hint}")
