"""dataset.yaml: what may stand in it, read and checked to the last key, paths made whole.

The models below are the file as a person writes it. What the top says of bands, reflectance and
outlines holds for all areas and dates that say nothing else; it is handed down before anything is
checked, so that an ``Entry`` or an ``Area`` knows all about itself. A validator raises ValueError
with what is wrong and what to do; pydantic knows the place in the file, and ``_explain`` puts the
two together.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from glacier_utils.conventions import BANDS, image_day
from glacier_utils.errors import GlacierError, did_you_mean
from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import band_names
from glacier_utils.raster.paths import is_virtual, spelled

_MOST_VALUES = 100_000
_DATE = r"^\d{4}-\d{2}(-\d{2})?$"
_LABEL_VALUES = (
    "must map the values of the files to 0 (not glacier), 1 (glacier) or 255 (unknown), as in "
    "{0: 0, 255: 1}, or {nodata: 0} for what the files call nodata"
)


def _read_number(value: Any) -> Any:
    """Return text as the number that it is, if it is one: YAML takes 1e4 and nan for text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _number(value: Any, info: ValidationInfo) -> float:
    value = _read_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number; write one such as 10")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    # Images do mark missing pixels by nan.
    if not (math.isfinite(number) or info.field_name == "nodata"):
        raise ValueError(f"{str(value)[:20]} must be a finite number, such as 10")
    return number


def _path(value: Any, info: ValidationInfo) -> str:
    """Return a path with its variables filled in, from the manifest's folder if it is relative.

    Web addresses and GDAL's own paths stay as they are.
    """
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is not a path; write one such as images/*.tif")

    def variable(match: re.Match) -> str:
        found = os.environ.get(match[1])
        if not found:
            raise ValueError(
                f"the environment variable {match[1]} is not set; set it to the folder it stands "
                f"for, as in {match[1]}=/path/to/data"
            )
        return found

    # As Windows writes them; it takes both.
    text = re.sub(r"\$\{(\w+)\}", variable, value).replace("\\", "/")
    return text if is_virtual(text) else str(spelled(_folder(info) / os.path.expanduser(text)))


def _paths(value: Any, info: ValidationInfo) -> list[str]:
    if value in (None, "", []) and info.field_name == "images":
        raise ValueError("names nothing; name a pattern, a file or a folder")
    return [_path(item, info) for item in (value if isinstance(value, list) else [value])]


class Layer(NamedTuple):
    """A vector file, and the layer of it that is meant; None where the file itself tells."""

    file: Path
    layer: str | None = None


def _layer(value: Any, info: ValidationInfo) -> Layer:
    if not isinstance(value, dict):
        return Layer(Path(_path(value, info)))
    if set(value) != {"file", "layer"} or not value["layer"]:
        raise ValueError("needs `file` and `layer`, as in {file: a.gpkg, layer: glaciers}")
    return Layer(Path(_path(value["file"], info)), str(value["layer"]))


def _polygons(value: Any, info: ValidationInfo) -> Layer | tuple[tuple[float, float], ...]:
    if isinstance(value, str | dict):
        return _layer(value, info)
    corners = isinstance(value, list) and len(value) >= 3
    if not corners or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise ValueError(
            "must be a file of polygons, or the corners of one as [[x, y], [x, y], [x, y], ...] in "
            "the image's CRS"
        )
    return tuple((_number(x, info), _number(y, info)) for x, y in value)


def _bounds(value: Any, info: ValidationInfo) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"{value!r} must be [xmin, ymin, xmax, ymax]")
    xmin, ymin, xmax, ymax = (_number(item, info) for item in value)
    if not (xmin < xmax and ymin < ymax):
        raise ValueError(f"{value} need xmin < xmax and ymin < ymax; swap them")
    return xmin, ymin, xmax, ymax


def _bands(value: Any) -> Any:
    try:
        band_names(value)
    except GlacierError as error:
        raise ValueError(str(error).removeprefix("bands: ")) from error
    return value


def _resolution(value: Any, info: ValidationInfo) -> float:
    if (number := _number(value, info)) <= 0:
        raise ValueError(f"{number} must be above 0 (m per pixel)")
    return number


def _label_values(value: Any) -> dict[int | str, int]:
    pairs: Any = value.items() if isinstance(value, dict) else ()
    found = {_read_number(stored): meant for stored, meant in pairs}
    good = all(
        (type(stored) in (int, float) or stored == "nodata")
        and type(meant) is int and meant in (0, 1, 255)
        for stored, meant in found.items()
    )  # fmt: skip
    if not (good and isinstance(value, dict)):
        raise ValueError(_LABEL_VALUES)
    return found


def _folder(info: ValidationInfo) -> Path:
    """Return the folder of the manifest that is being read."""
    return (info.context or {})["path"].parent


def _name(value: Any, info: ValidationInfo) -> str:
    return str(value or _folder(info).resolve().name)


def _text(value: Any) -> Any:
    """Return a date as text: YAML reads 2023-08-24 as a date and 2023-08 as text."""
    return value.isoformat() if isinstance(value, datetime.date) else value


class _BandPlace(BaseModel):
    """Where a band lies: a file pattern, and its number in the file."""

    # For the schema alone: ``band_names`` checks what is given.
    file: str
    band: int = 1


_Number = Annotated[float, BeforeValidator(_number)]
_Paths = Annotated[list[str], PlainValidator(_paths, json_schema_input_type=str | list[str])]
_Layer = Annotated[Layer, PlainValidator(_layer, json_schema_input_type=str | dict[str, str])]
_Polygons = Annotated[
    Layer | tuple[tuple[float, float], ...],
    PlainValidator(
        _polygons, json_schema_input_type=str | dict[str, str] | list[tuple[float, float]]
    ),
]
_Bands = Annotated[
    Any,
    PlainValidator(
        _bands, json_schema_input_type=list[str] | dict[str, int | str | _BandPlace]
    ),
]  # fmt: skip


class _Mapping(BaseModel):
    """A mapping of the file; a key that it does not know is refused with the nearest it does."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, content: Any) -> Any:
        for key in content if isinstance(content, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"unknown key {key!r}; {did_you_mean(key, cls.model_fields)}")
        return content


class StatedReflectance(_Mapping):
    """How the stored numbers become reflectance: (number + offset) / scale."""

    scale: _Number = Reflectance.scale
    """What numbers are divided by: 10000 for Sentinel-2, 255 for 8 bits."""
    offset: _Number = Reflectance.offset
    """What is added to numbers first: -1000 for Sentinel-2 L2A since January 2022."""
    nodata: _Number | None = None
    """The number of missing pixels (default: what the file says)."""

    @property
    def rule(self) -> Reflectance:
        """The same as imagery reads it."""
        return Reflectance(self.scale, self.offset, self.nodata)

    @model_validator(mode="before")
    @classmethod
    def _check_kind(cls, content: Any) -> Any:
        if not isinstance(content, dict | None):
            raise ValueError("must be a mapping such as {scale: 10000, offset: -1000}")
        return content or {}

    @model_validator(mode="after")
    def _check_rule(self) -> StatedReflectance:
        try:
            _ = self.rule
        except GlacierError as error:
            raise ValueError(str(error).removeprefix("reflectance: ")) from error
        return self


class Entry(_Mapping):
    """One area at one date: its image and the masks that lie on it; paths are whole."""

    images: _Paths
    """The image: a pattern, file or folder, or a list of them."""
    labels: _Paths | None = None
    """Ready masks instead of outlines: 0 not glacier, 1 glacier, 255 unknown."""
    truth: _Paths | None = None
    """The true glacier mask (the sample's)."""
    surface: _Paths | None = None
    """The map of surface classes (the sample's)."""
    scene_classification: _Paths | None = None
    """Sentinel-2's SCL, of any resolution."""
    clouds: _Paths | None = None
    """A cloud mask of your own: 0 clear, 1 cloud, 2 cloud shadow, 255 not known."""
    label_values: Annotated[
        dict[int | str, int],
        PlainValidator(_label_values, json_schema_input_type=dict[int | str, int]),
    ] | None = None  # fmt: skip
    """What other numbers in the labels mean, as in {0: 0, 255: 1, nodata: 0}."""
    reflectance: StatedReflectance = StatedReflectance()
    """How stored numbers become reflectance, of this date alone."""
    bands: _Bands = list(BANDS)
    """Names of the bands in the files' order, or where each lies, of this date alone."""


def _images_alone(content: Any) -> Any:
    return content if isinstance(content, dict) else {"images": content}


def _date_schema(schema: dict[str, Any]) -> None:
    """Tell editors which further keys an area may have: dates."""
    schema["patternProperties"] = {_DATE: schema["additionalProperties"]}
    schema["additionalProperties"] = False


class Area(BaseModel):
    """An area: its settings, and its dates as further keys; paths are whole."""

    model_config = ConfigDict(
        extra="allow", frozen=True, use_attribute_docstrings=True, json_schema_extra=_date_schema
    )
    __pydantic_extra__: dict[
        str,
        Annotated[
            Entry,
            BeforeValidator(_images_alone, json_schema_input_type=str | list[str] | Entry),
        ],
    ] = Field(init=False)

    bounds: Annotated[
        tuple[float, ...],
        PlainValidator(_bounds, json_schema_input_type=tuple[float, float, float, float]),
    ] | None = None  # fmt: skip
    """[xmin, ymin, xmax, ymax] in the image's CRS: a part of a scene."""
    outlines: _Layer | None = None
    """Vector file, GLIMS or RGI, of this area alone; {file: a.gpkg, layer: b} of several layers."""
    coverage: _Polygons | None = None
    """Vector file, or corners in the image's CRS, outside of which the inventory knows nothing."""
    ice_outside: _Polygons | None = None
    """Vector file, or corners in the image's CRS, of ice that the inventory does not hold."""
    align: Annotated[
        str, PlainValidator(_text, json_schema_input_type=Annotated[str, Field(pattern=_DATE)])
    ] | None = None  # fmt: skip
    """The date whose grid all others are brought onto; without it each date stays on its own."""

    @property
    def entries(self) -> dict[str, Entry]:
        """What is said of each date, in the order of the dates."""
        return dict(sorted((self.__pydantic_extra__ or {}).items()))

    @model_validator(mode="before")
    @classmethod
    def _check_dates(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            raise ValueError("must map dates to images, as in 2023-08: images/*.tif")
        dates = [key for key in content if key not in cls.model_fields]
        for key in dates:
            if isinstance(key, str) and not re.match(r"\d", key):
                hint = did_you_mean(key, cls.model_fields)
                raise ValueError(f"{key!r} is neither a date nor a known key; {hint}")
            try:
                image_day(key)
            except GlacierError as error:
                raise ValueError(str(error)) from None
        if not dates:
            raise ValueError("has no dates; give at least one, as in 2023-08: images/*.tif")
        if (align := _text(content.get("align"))) not in (None, *dates):
            raise ValueError(
                f"align: {align!r} is none of its dates ({', '.join(sorted(dates))}); name the one "
                "whose grid the others are to be brought onto"
            )
        return content


class Manifest(_Mapping):
    """A checked dataset.yaml."""

    name: Annotated[str, PlainValidator(_name, json_schema_input_type=str)] = Field(
        "", validate_default=True
    )
    """Of the dataset (default: its folder's)."""
    description: Any = None
    """Free text."""
    synthetic: bool = False
    """Whether the images are made, not observed: figures and maps then say so."""
    bands: _Bands = list(BANDS)
    """Names of the bands in the files' order; or a mapping from name to number or file pattern."""
    reflectance: StatedReflectance = StatedReflectance()
    """How stored numbers become reflectance: (number + offset) / scale."""
    resolution: Annotated[
        float, PlainValidator(_resolution, json_schema_input_type=float)
    ] | None = None  # fmt: skip
    """m per pixel, for patches without georeference."""
    outlines: _Layer | None = None
    """Vector file, GLIMS or RGI, any CRS; for all areas without their own.

    Of a file of several layers that do not tell: {file: a.gpkg, layer: glaciers}.
    """
    areas: dict[str, Area]
    """Area to dates to images; a date is 2023-08 or 2023-08-24."""

    @model_validator(mode="before")
    @classmethod
    def _hand_down(cls, content: Any) -> Any:
        """Give each area and date what the top says of all."""
        if not isinstance(content, dict):
            raise ValueError("holds no mapping; it needs at least `areas`")
        areas = content.get("areas")
        if not isinstance(areas, dict) or not areas:
            raise ValueError("needs `areas`, a mapping from area to dates to images")
        if odd := [name for name in areas if isinstance(name, bool)]:
            raise ValueError(f"areas: YAML reads a name as {odd[0]}; put it in quotes, as 'no':")
        return {
            **content,
            "areas": {str(name): _inherit(area, content) for name, area in areas.items()},
        }

    @model_validator(mode="after")
    def _check_areas(self) -> Manifest:
        names = band_names(self.bands)
        for area, settings in self.areas.items():
            if not re.fullmatch(r"\w[\w .,+()-]*", area):
                raise ValueError(
                    f"areas: {area!r}: files are named by the area, so its name may hold only "
                    "letters, digits, spaces and _ . , + - ( )"
                )
            for date, entry in settings.entries.items():
                if (own := band_names(entry.bands)) != names:
                    raise ValueError(
                        f"areas: {area}: {date}: its bands {list(own)} are not those of the "
                        f"dataset {list(names)}; all dates need the same names in the same order"
                    )
        return self


def _inherit(area: Any, top: Mapping[str, Any]) -> Any:
    """Return an area with the top's outlines, and its dates with the top's bands and reflectance.

    What is of a wrong kind stays as it is, to be refused in its place.
    """
    if not isinstance(area, dict):
        return area
    told = {key: top[key] for key in ("bands", "reflectance") if key in top}
    full = {"outlines": top.get("outlines")}
    for key, value in area.items():
        if key not in Area.model_fields:
            entry = {**told, **_images_alone(value)}
            rules = told.get("reflectance"), entry.get("reflectance")
            if all(isinstance(rule, dict | None) for rule in rules):
                entry["reflectance"] = {**(rules[0] or {}), **(rules[1] or {})}
            full[_text(key)] = entry
        else:
            full[key] = value
    return full


def read_manifest(path: Path) -> tuple[Manifest, str, dict[str, Any]]:
    """Read and check a manifest; the files it names are not touched.

    Args:
        path: of the file.

    Returns:
        The manifest, the text of the file, and its content as YAML reads it.

    Raises:
        GlacierError: whatever is wrong with it: one line with the file, the place in it, and what
            to do.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise GlacierError(f"{path}: cannot be read ({error}); save it as UTF-8") from error
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
        return Manifest.model_validate(content, context={"path": path}), text, content
    except ValidationError as error:
        raise GlacierError(f"{path}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    """Say the first thing that is wrong: its place in the file, and what the validator said."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "missing":
        return ": ".join([*place[:-1], f"needs `{place[-1]}`"])
    said = first.get("ctx", {}).get("error")
    return ": ".join([*place, str(said or f"{first['msg']}; see data/README.md")])


def manifest_schema() -> dict[str, JsonValue]:
    """Return the JSON schema of dataset.yaml, by which editors complete and check it.

    Example:
        >>> sorted(manifest_schema()["properties"])[:3]
        ['areas', 'bands', 'description']
    """
    return Manifest.model_json_schema()


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
