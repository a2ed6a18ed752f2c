"""Which file and which band of it holds red, green, blue and near infrared."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glacier_utils.errors import GlacierError
from glacier_utils.paths import list_files
from glacier_utils.safe import band_of

# Tokens of file names, best first: Sentinel-2 numbers (Landsat 8 and 9 share 2, 3 and 4) and words.
# Landsat's near infrared is 5, which on Sentinel-2 is a red edge: that must be said by a mapping.
TOKENS = {
    "red": ("b04", "b4", "red"),
    "green": ("b03", "b3", "green"),
    "blue": ("b02", "b2", "blue"),
    "nir": ("b08", "b8", "b8a", "nir"),
}


@dataclass(frozen=True)
class BandFiles:
    """Where the bands are.

    Either ``files`` are alike, each holding the bands at ``numbers`` (a scene, or patches), or
    ``files`` are one a band, in band order, each read at its number (``separate`` is True).
    ``numbers`` counts from 1; None takes the bands in the order of the file, which must then have
    exactly that many.
    """

    bands: tuple[str, ...]
    files: tuple[Path, ...]
    numbers: tuple[int, ...] | None
    separate: bool


def band_names(bands: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the bands in order, checked.

    Raises:
        GlacierError: no bands, a name twice, or a specification of a wrong kind.
    """
    if isinstance(bands, str) or not isinstance(bands, Sequence | Mapping):
        raise GlacierError(
            f"bands: {bands!r} is neither a list of names nor a mapping; "
            "write for example [red, green, blue, nir]"
        )
    names = tuple(bands)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise GlacierError(f"bands: {list(names)} must be names such as red, green, blue, nir")
    if len(set(names)) < len(names):
        raise GlacierError(f"bands: {list(names)} names a band twice")
    if isinstance(bands, Mapping):
        for name, where in bands.items():
            _check_where(name, where)
        numbers = [isinstance(where, int) for where in bands.values()]
        if any(numbers) and not all(numbers):
            raise GlacierError(
                "bands: either all are numbers or all are file patterns; for a band inside one of "
                "several files write {file: PATTERN, band: NUMBER}"
            )
    return names


def _check_where(name: str, where: Any) -> None:
    if isinstance(where, Mapping):
        unknown = [key for key in where if key not in ("file", "band")]
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), ["file", "band"], 1, 0.3)
            hint = f"; did you mean {near[0]!r}?" if near else "; known are file and band"
            raise GlacierError(f"bands: {name}: unknown key {unknown[0]!r}{hint}")
        good = isinstance(where.get("file"), str) and _is_number(where.get("band", 1))
    else:
        good = isinstance(where, str) or _is_number(where)
    if not good:
        raise GlacierError(
            f"bands: {name}: {where!r} is not a band number from 1, a file pattern, "
            "or {file: PATTERN, band: NUMBER}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def find_bands(images: Any, bands: Sequence[str] | Mapping[str, Any]) -> BandFiles:
    """Find the files of the bands, by names alone: nothing is opened.

    Raises:
        GlacierError: nothing matches, or more than one file where there must be one.
    """
    names = band_names(bands)
    files = list_files(images)
    if isinstance(bands, Mapping):
        if all(isinstance(where, int) for where in bands.values()):
            return BandFiles(names, tuple(files), tuple(bands.values()), False)
        found = [_by_pattern(name, where, files) for name, where in bands.items()]
        return BandFiles(
            names, tuple(path for path, _ in found), tuple(number for _, number in found), True
        )
    named = _by_tokens(names, files)
    if named is not None:
        return BandFiles(names, tuple(named), None, True)
    return BandFiles(names, tuple(files), None, False)


def _by_pattern(name: str, where: Any, files: Sequence[Path]) -> tuple[Path, int]:
    pattern, number = (where, 0) if isinstance(where, str) else (where["file"], where.get("band"))
    # A pattern without wildcards is a piece of the name: `B04` finds T22WDS_B04_60m.jp2.
    wild = pattern if any(mark in pattern for mark in "*?[") else f"*{pattern}*"
    found = [path for path in files if path.name == pattern]
    found = found or [path for path in files if fnmatch.fnmatchcase(path.name, wild)]
    if not found:
        raise GlacierError(
            f"{files[0].parent}: no file for band {name} matches {pattern!r} "
            f"(there are {_some(files)}); mend the pattern"
        )
    if len(found) > 1:
        raise GlacierError(
            f"{files[0].parent}: {len(found)} files for band {name} match {pattern!r} "
            f"({_some(found)}); make the pattern, or that of `images`, match one"
        )
    return found[0], number or 0


def _by_tokens(names: Sequence[str], files: Sequence[Path]) -> list[Path] | None:
    """Return a file a band where the names say so, None where the files are not one a band.

    Raises:
        GlacierError: the files are one a band, but of several images.
    """
    if len(files) == 1:
        return None
    matches = {name: _matching(name, files) for name in names}
    missing = [name for name, found in matches.items() if not found]
    if missing:
        # Bands of one image laid over each other as patches would be a wrong image.
        if len({band_of(path) for path in files} - {None}) > 1 and all(map(band_of, files)):
            raise GlacierError(
                f"{files[0].parent}: no file is named as band {missing[0]} (there are "
                f"{_some(files)}); say which it is, as in bands: {{{missing[0]}: '*_B11_*'}}"
            )
        return None
    chosen = [found[0] for found in matches.values()]
    if len(set(chosen)) < len(chosen):
        return None
    several = {name: found for name, found in matches.items() if len(found) > 1}
    if len(several) == len(names):
        name, found = next(iter(several.items()))
        raise GlacierError(
            f"{files[0].parent}: {len(found)} files are named as band {name} ({_some(found)}); "
            "narrow `images` to one image with a pattern"
        )
    return None if several else chosen


def _matching(name: str, files: Sequence[Path]) -> list[Path]:
    """Return the files whose name has the band's best token that any of them has."""
    for token in TOKENS.get(name, (name.lower(),)):
        found = [path for path in files if token in re.split(r"[^a-z0-9]+", path.stem.lower())]
        if found:
            return found
    return []


def _some(files: Sequence[Path], limit: int = 4) -> str:
    names = ", ".join(path.name for path in files[:limit])
    return names + (f" and {len(files) - limit} more" if len(files) > limit else "")
