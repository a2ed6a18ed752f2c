"""Where raster files are: in folders, Sentinel-2 products, zip archives, on the web."""

from __future__ import annotations

import fnmatch
import glob
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from glacier_utils.errors import GlacierError

# What GDAL reads with a file: ends of its name, and ends in place of its suffix.
_AFTER = (".aux.xml", ".msk", ".hdr", "w", "-wal")
_INSTEAD = (".wld", ".prj", ".hdr", ".ige", ".shx", ".dbf", ".cpg", ".aux")
SUFFIXES = {".tif", ".tiff", ".jp2", ".png", ".vrt", ".img", ".npy"}
# Files that make a folder a Sentinel-2 product (SAFE), with the level each stands for.
PRODUCT_FILES = {"MTD_MSIL2A.xml": "L2A", "MTD_MSIL1C.xml": "L1C"}
# The 10 m bands of a product. L1C keeps bands of all resolutions in one folder.
_PRODUCT_BANDS = re.compile(
    r"GRANULE/[^/]+/IMG_DATA/(?:R10m/[^/]*_B\d[\dA]_10m|[^/]*_B\d[\dA])\.jp2"
)
# Of letters with accents, in one piece or two.
_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
# Archives that GDAL reads from, whose files must be named one by one.
_UNLISTED = re.compile("(/vsi(?:tar|gzip|7z|rar)/)(.+)")


def list_files(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the raster files that a path, a folder, a pattern or a list of these means, sorted.

    A path may lead to a file, a folder, a SAFE folder (its 10 m bands), a zip archive of any of
    these, or be a GDAL path (/vsizip/..., /vsicurl/...) or a web address. Files in archives and on
    the web come back as GDAL paths; ``gdal_name`` is what GDAL opens.

    Raises:
        GlacierError: nothing is there, or an archive has a member outside its folder.
    """
    if isinstance(images, str | Path):
        found = _list_one(str(images))
        for path in found:
            if re.search("[\ud800-\udfff]", str(path)):
                raise GlacierError(f"{path}: its name is not in UTF-8; rename it")
        return found
    found = [path for item in images for path in list_files(item)]
    if not found:
        raise GlacierError("an empty list of images: name at least one file")
    return sorted(set(found))


def gdal_name(path: str | Path) -> str:
    """Return the name that GDAL opens: a path object swallows a slash of two."""
    text = re.sub(r"(/vsicurl/\w+):/(?!/)", r"\1://", str(path))
    if (found := _UNLISTED.match(text)) and (place := _split(found[2])):
        return f"{found[1]}{place[0]}" + (place[1] and f"/{place[1]}")
    return text


def spelled(path: str | Path) -> Path:
    """Return a path as the disk spells it: a Mac may take letters with accents apart."""
    if str(path).isascii():
        return Path(path)
    found = Path()
    for part in Path(path).parts:
        forms = (part, *(unicodedata.normalize(form, part) for form in _FORMS))
        found /= next((form for form in forms if (found / form).exists()), part)
    return found


def without_maps(paths: Sequence[Path]) -> list[Path]:
    """Leave out the maps of an earlier run among scenes: class and probability of one name."""
    there, kept = set(paths), []
    for path in paths:
        name, _, kind = path.stem.rpartition("_")
        own = kind in ("class", "probability", "spread") and all(
            path.with_name(f"{name}_{one}{path.suffix}") in there
            for one in ("class", "probability")
        )
        kept += [path] * (not own)
    return kept


def is_virtual(path: str | Path) -> bool:
    """Say whether a path is a web address or one of GDAL's, and no file on the disk."""
    return str(path).startswith(("/vsi", "http:/", "https:/"))


def local_file(path: str | Path) -> Path | None:
    """Return the file on the disk that ``path`` is in (an archive for its members), None if none.

    A patch of a stacked array, as ``stack.npy/000003``, is in that array.
    """
    found = _UNLISTED.match(str(path))
    place = _split(found[2]) if found else _split_archive(str(path))
    path = place[0] if place else Path(path)
    if is_virtual(path):
        return None
    return path.parent if path.parent.suffix.lower() == ".npy" else path


def exists(path: Path) -> bool:
    """Say whether a file is there, on the disk or in an archive (of the web: False)."""
    place = _split_archive(str(path))
    if place is not None:
        return place[1] in archive_members(place[0])
    return path.is_file()


def files_behind(files: Iterable[Path]) -> list[Path]:
    """Return files on the disk and what GDAL reads with them, sorted: a change in one counts.

    That is what lies beside a file under its name (masks, georeference, tables of a shapefile), and
    the sources of a VRT, at any depth.
    """
    found, left = set[Path](), list(files)
    beside: dict[Path, dict[str, Path]] = {}
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix.lower() == ".vrt":
            left += _vrt_sources(path)
        if path.parent not in beside:
            beside[path.parent] = {item.name.lower(): item for item in path.parent.iterdir()}
        names = beside[path.parent]
        ends = [path.suffix + end for end in _AFTER] + [
            *_INSTEAD,
            path.suffix[:2] + path.suffix[-1:] + "w",
        ]
        found.update(names[name] for end in ends if (name := (path.stem + end).lower()) in names)
    return sorted(found)


def _vrt_sources(path: Path) -> list[Path]:
    try:
        root = fromstring(path.read_bytes(), forbid_dtd=True)
    except (ParseError, DefusedXmlException):
        return []  # GDAL will say so
    sources = []
    for item in root.iter():
        if item.tag in ("SourceFilename", "SourceDataset") and item.text:
            relative = item.get("relativeToVRT") == "1"
            sources.append(local_file(path.parent / item.text if relative else item.text))
    return [source for source in sources if source is not None and source.is_file()]


def read_bytes(path: Path, limit: int = 20_000_000) -> bytes:
    """Return the content of a small file on the disk or in an archive.

    Raises:
        GlacierError: it cannot be read, or is larger than ``limit`` bytes.
    """
    place = _split_archive(str(path))
    try:
        with (zipfile.Path(*place) if place else path).open("rb") as content:
            data = content.read(limit + 1)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise GlacierError(f"{path}: cannot be read ({error}); fetch it again") from error
    if len(data) > limit:
        raise GlacierError(f"{path}: is larger than {limit / 1e6:.0f} MB; check what it is")
    return data


def files_below(folder: str | Path) -> list[Path]:
    """Return all files of a folder, of a zip archive or of a folder in one, at any depth."""
    place = _split_archive(str(folder))
    if place is None:
        return sorted(item for item in Path(folder).rglob("*") if item.is_file())
    return [_member(place[0], name) for name in _inside(*place)]


@lru_cache(maxsize=16)
def _read_members(archive: Path, size: int, time: int) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(archive) as content:
            names = [name for name in content.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, OSError) as error:
        raise GlacierError(f"{archive}: is no whole zip file; fetch it again") from error
    for name in names:
        parts = re.split(r"[/\\]", name)
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise GlacierError(
                f"{archive}: its member {name!r} lies outside the archive's folder; do not trust "
                "it, fetch it again from where it was made"
            )
    # A Mac puts what it keeps of each file beside it, under the file's own name.
    return tuple(sorted(name for name in names if not name.startswith("__MACOSX/")))


def archive_members(archive: Path) -> tuple[str, ...]:
    """Return the names of the files in a zip archive, sorted.

    Raises:
        GlacierError: it is no zip file, or a member would lie outside the archive's folder.
    """
    if not archive.is_file():
        raise GlacierError(f"{archive}: no such file; check the path")
    stat = archive.stat()
    return _read_members(archive, stat.st_size, stat.st_mtime_ns)


def _split_archive(text: str) -> tuple[Path, str] | None:
    """Return archive and member of a path into a zip archive on the disk, None for others."""
    if not text.startswith("/vsizip/"):
        path = Path(text)
        return (path, "") if path.suffix.lower() == ".zip" and path.is_file() else None
    return _split(text.removeprefix("/vsizip/"))


def _split(rest: str) -> tuple[Path, str] | None:
    """Return archive and member of what follows /vsizip/ and the like."""
    # The archive's own name may have braces, but it ends in .zip or the like.
    if found := re.match(r"\{(.+?\.\w+|[^}]+)\}(.*)", rest):
        return None if is_virtual(found[1]) else (Path(found[1]), found[2].strip("/"))
    # A path object may have swallowed the second slash of /vsizip//folder/file.zip.
    for start in dict.fromkeys((rest, "/" + rest.lstrip("/"))):
        for path in [Path(start), *Path(start).parents]:
            if path.is_file():
                return path, start[len(str(path)) :].strip("/")
    return None


def _member(archive: Path, name: str) -> Path:
    # In braces, the path of the archive stays whole whatever is in it.
    return Path(f"/vsizip/{{{archive.absolute()}}}/{name}")


def _inside(archive: Path, folder: str) -> list[str]:
    start = f"{folder}/" if folder else ""
    return [name for name in archive_members(archive) if name.startswith(start)]


def _list_one(text: str) -> list[Path]:
    address = re.match(r"https?:/", text)
    text = f"/vsicurl/{text}" if address else text
    place = _split_archive(text)
    if place is not None:
        return _list_archive(*place)
    if is_virtual(text):
        return [_remote(text)]
    path = spelled(text)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _list_folder(path)
    # The folders that are there are no part of the pattern: [2023] stands for itself.
    folder = next(parent for parent in path.parents if parent.is_dir())
    pattern = str(path.relative_to(folder))
    if not glob.has_magic(pattern):
        why = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise GlacierError(f"{path}: no such file{why}; check the path")
    forms = {unicodedata.normalize(form, pattern) for form in _FORMS} | {pattern}
    named = {name for form in forms for name in glob.glob(form, root_dir=folder, recursive=True)}
    found = without_maps(sorted(folder / item for item in named))
    if not found and (suffix := PurePath(pattern).suffix).lower() in SUFFIXES:
        # The .TIF of a camera or of Landsat for *.tif, as on systems that know no difference.
        any_case = "".join(f"[{letter.lower()}{letter.upper()}]" for letter in suffix[1:])
        pattern = f"{pattern.removesuffix(suffix)}.{any_case}"
        found = sorted(folder / item for item in glob.glob(pattern, root_dir=folder))
    rasters = [item for item in found if _is_raster(item) and item.is_file()]
    for item in found:
        if _is_product(item) or (text.lower().endswith(".zip") and item.suffix.lower() == ".zip"):
            rasters += _list_one(str(item))
    if not rasters:
        raise GlacierError(f"{path}: this pattern matches no raster file{_arrays_hint(found)}")
    return sorted(rasters)


def _remote(text: str) -> Path:
    shown = text.removeprefix("/vsicurl/")
    if text.startswith("/vsizip/") and "/vsicurl/" not in text:
        raise GlacierError(f"{text}: there is no such archive; check the path")
    if glob.has_magic(text.partition("?")[0]) or text.endswith(("/", ".zip")):
        raise GlacierError(
            f"{shown}: folders, patterns and archives on the web cannot be listed; name the files "
            "one by one, or download them"
        )
    if "//" in shown.partition("://")[2]:
        raise GlacierError(f"{shown}: an empty name between two slashes; mend the address")
    return Path(text)


def _list_folder(folder: Path) -> list[Path]:
    if _is_product(folder):
        return _product_bands(folder, files_below(folder))
    items = without_maps(sorted(folder.iterdir()))
    # Files only; asked last, since it costs a look at the disk for each of thousands.
    found = [item for item in items if _is_raster(item) and item.is_file()]
    if not found:
        inner = [item.name for item in items if _is_product(item)]
        # One folder down, unless a name stands twice there, as of two dates.
        found = [] if inner else sorted(item for item in folder.glob("*/*") if _is_raster(item))
        if found and len({item.stem for item in found}) == len(found):
            return found
        hint = f"; point at {inner[0]} in it" if inner else _arrays_hint(items)
        raise GlacierError(
            f"{folder}: this folder holds no raster files (GeoTIFF, JPEG 2000, PNG, .npy){hint}"
        )
    return found


def _list_archive(archive: Path, inner: str) -> list[Path]:
    names = archive_members(archive)
    if inner in names:
        return [_member(archive, inner)]
    if glob.has_magic(inner):
        depth = inner.count("/")
        inside = [
            name for name in names if name.count("/") == depth and fnmatch.fnmatchcase(name, inner)
        ]
    else:
        inside = _inside(archive, inner)
        products = sorted(
            {str(PurePosixPath(name).parent) for name in inside
             if PurePosixPath(name).name in PRODUCT_FILES}
        )  # fmt: skip
        if len(products) > 1:
            raise GlacierError(
                f"{archive}: holds {len(products)} products; name one of them, as in "
                f"/vsizip/{archive}/{products[0]}"
            )
        if products:
            root = _member(archive, "" if products[0] == "." else products[0])
            return _product_bands(root, [_member(archive, name) for name in inside])
    found = [_member(archive, name) for name in inside if _is_raster(PurePosixPath(name))]
    if not found:
        where = f"{archive}: {inner!r} in it" if inner else f"{archive}: the archive"
        raise GlacierError(f"{where} names no raster files (GeoTIFF, JPEG 2000, PNG)")
    return found


def _is_raster(path: PurePath) -> bool:
    # Names that start with a dot are unfinished files or a system's own.
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _is_product(folder: Path) -> bool:
    safe = folder.suffix.upper() == ".SAFE" and folder.is_dir()
    return safe or any((folder / name).is_file() for name in PRODUCT_FILES)


def _product_bands(root: Path, files: Iterable[Path]) -> list[Path]:
    """Return the 10 m bands of a product; of one without inner folders, the rasters in it."""
    start = len(str(root)) + 1
    files = list(files)
    found = [path for path in files if _PRODUCT_BANDS.fullmatch(str(path)[start:])]
    found = found or [path for path in files if path.parent == root and _is_raster(path)]
    if not found:
        raise GlacierError(
            f"{root}: this SAFE folder holds no 10 m bands, such as "
            "GRANULE/*/IMG_DATA/R10m/*_B04_10m.jp2; fetch the whole product"
        )
    return found


def _arrays_hint(items: Sequence[Path]) -> str:
    if any(item.suffix.lower() == ".npz" for item in items):
        return "; .npz is not read: save each array with numpy.save (.npy)"
    return "; check the path"
