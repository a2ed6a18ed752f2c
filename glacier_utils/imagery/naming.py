"""Which band is which, by what files call them: descriptions, colours, names of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glacier_utils.errors import GlacierError
from glacier_utils.raster.io import Header

_Numbers = dict[str, tuple[str, ...]]
_Called = tuple[str, int] | None
# Numbers of the bands by sensor, best first. Landsat's 8 is panchromatic, and no near infrared.
_SENTINEL: _Numbers = {"blue": ("2",), "green": ("3",), "red": ("4",), "nir": ("8", "8a")}
_OLI: _Numbers = {"blue": ("2",), "green": ("3",), "red": ("4",), "nir": ("5",)}
_TM: _Numbers = {"blue": ("1",), "green": ("2",), "red": ("3",), "nir": ("4",)}
_SENSORS: tuple[tuple[re.Pattern[str], _Numbers], ...] = (
    (re.compile(r"(?<![a-z\d])(l[cot]0?[89](?=_|\d{6})|landsat[ _-]?[89]|l30(?![a-z\d]))"), _OLI),
    (re.compile(r"(?<![a-z\d])(l[et]0?[4-7](?=_|\d{6})|landsat[ _-]?[4-7](?!\d))"), _TM),
    (re.compile(r"(?<![a-z\d])lm0?[1-5](?=_|\d{6})"), {}),
    (re.compile(r"(?<![a-z\d])(s2[a-d]_|s30(?![a-z\d])|sentinel[ _-]?2)"), _SENTINEL),
)
_NUMBER = re.compile(r"(?<![a-z\d])b(?:and)?[ _-]?0?(\d{1,2}a?)(?![a-z\d])")
_WORD = re.compile(r"\b(?:broad)?(red|green|blue|nir)(?:1|08)?\b")
_LETTERS = {"r": "red", "g": "green", "b": "blue", "n": "nir"}
# Wavelengths in nm: from, to, and where the band that is meant mostly has its middle.
_WAVES = {"blue": (450, 520, 490), "green": (520, 600, 560), "red": (620, 700, 665),
          "nir": (760, 900, 842)}  # fmt: skip
_WAVE = re.compile(r"wave\D*(\d+\.?\d*)|(\d+\.?\d*) ?(?:nm|nano|um|µm|micro)")
# Analytic images of PlanetScope, by the number of their bands.
_PLANET = {
    4: ("blue", "green", "red", "nir"),
    8: ("coastal blue", "blue", "green i", "green", "yellow", "red", "rededge", "nir"),
}
# Words that make another band of one of those above, as in "red edge" and "coastal blue".
_OTHER = re.compile(
    r"\b(red ?edge|coastal|yellow|swir|short|green i\b|pan|therm|nir ?0?[29]\b|cloud|mask|qa\b)"
)
REMEDY = (
    "say which is which: `--bands red=4,green=3,blue=2,nir=8` with the file's own numbers, in a "
    "manifest `bands: {red: 4, green: 3, blue: 2, nir: 8}`"
)


def _sensor(path: Path) -> _Numbers | None:
    """Return the numbers of the sensor that the name of a file or its folder tells, else None."""
    found = (numbers for part in (path.name, path.parent.name) for form, numbers in _SENSORS
             if form.search(part.lower()))  # fmt: skip
    return next(found, None)


def _unknown_sensor(texts: Sequence[str | None]) -> _Numbers:
    """Return the numbers of bands by their names alone: none where SR_B4 may be of any Landsat."""
    text = " ".join(filter(None, texts)).lower()
    if not re.search(r"(?<![a-z])sr_b\d", text):
        return _SENTINEL
    return _OLI if "sr_b6" in text else {}


def word_of(text: str) -> _Called:
    """Return the colour that a text names, and 0 where it is all it says, else 1.

    "other" is any other band; None where it names none, or several.

    Example:
        >>> word_of("Band 4 (Red)"), word_of("Red Edge 1"), word_of("scene_1")
        (('red', 1), ('other', 0), None)
    """
    plain = re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()
    plain = re.sub(r"near ?infra ?red", "nir", plain)
    if plain in _LETTERS:
        return _LETTERS[plain], 0
    if _OTHER.search(plain):
        return "other", 0
    words = set(_WORD.findall(plain))
    return (words.pop(), int(plain not in _LETTERS.values())) if len(words) == 1 else None


def _by_wavelength(text: str) -> _Called:
    """Return the colour of a wavelength in nm or micrometres, and how far off its middle it is."""
    if (found := _WAVE.search(text.lower())) is None:
        return None
    number = float(found[1] or found[2])
    nm = number if number > 10 else number * 1000
    inside = ((name, round(abs(nm - middle))) for name, (low, high, middle) in _WAVES.items()
              if low <= nm <= high)  # fmt: skip
    return next(inside, ("other", 0))


def number_of(text: str) -> str | None:
    """Return the number (4, 8a) of the band that a text names, None where there is no or no one."""
    found = set(_NUMBER.findall(text.lower()))
    return found.pop() if len(found) == 1 else None


def files_called(names: Sequence[str], files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files that are named as each band: by a number where they have one, or a word."""
    unknown = _unknown_sensor([path.stem for path in files])
    called: dict[str, dict[Path, int]] = {}
    for path in files:
        sensor, number = _sensor(path), number_of(path.stem)
        own = unknown if sensor is None else sensor
        name, rank = (_by_number(number, own) if number else word_of(path.stem)) or ("other", 0)
        called.setdefault(name, {})[path] = rank
        for word in {*re.split(r"[^a-z0-9]+", path.stem.lower())} - {*_SENTINEL}:
            called.setdefault(word, {})[path] = 0
    found = {name: called.get(name.lower(), {}) for name in names}
    return {
        name: [path for path, rank in ranks.items() if rank == min(ranks.values())]
        for name, ranks in found.items()
    }


def bands_called(
    names: Sequence[str], headers: Sequence[Header], stated: bool
) -> tuple[list[int], list[str]]:
    """Return the numbers of bands in files that hold all of them, by names, else by position.

    Args:
        names: of the bands that are wanted.
        headers: of the files.
        stated: whether the order of ``names`` is said to be that of the file.

    Returns:
        The numbers from 1, and warnings of what the file says otherwise.

    Raises:
        GlacierError: the names contradict the order and do not tell all bands; there are none, and
            more or fewer bands than wanted; files that differ.
    """
    widest = max(headers, key=lambda header: header.count)
    for header in headers:
        if header.count < len(names) <= widest.count:
            raise GlacierError(
                f"{header.path}: has {header.count} band(s), {widest.path.name} has "
                f"{widest.count}: if it is a mask or another product, narrow `images` with a "
                "pattern that leaves it out"
            )
    headers = [_as_planet(header) for header in headers]
    distinct = {(header.texts, header.alpha): header for header in headers}
    found = [_numbers_in(header, names, stated) for header in distinct.values()]
    first, *others = distinct.values()
    for header, (numbers, _) in zip(others, found[1:], strict=True):
        if numbers != found[0][0]:
            raise GlacierError(
                f"{header.path}: its bands {_listed(header)} are not those of {first.path.name} "
                f"{_listed(first)}; export all patches with the same bands in the same order"
            )
    return found[0]


def contradictions(name: str, number: int, header: Header) -> list[str]:
    """Return a warning where a band is taken as one, and its file calls it another.

    By its description, else by the number in the file's name where that tells the sensor too.
    """
    header = _as_planet(header)
    sensor, own = _sensor(header.path), number_of(header.path.stem)
    text = header.texts[number - 1]
    called = _called(header)[number] if any(header.descriptions) else None
    if header.count == 1 and own and sensor is not None:
        text, called = header.path.name, _by_number(own, sensor)
    others = {*_SENTINEL, "other", f"b{own}" if sensor is not None else ""} - {name}
    if name not in _SENTINEL or called is None or called[0] not in others:
        return []
    return [
        f"{header.path}: band {number} is taken as {name}, but the file calls it {text!r}; check "
        "which is right"
    ]


def _as_planet(header: Header) -> Header:
    """Name the bands of a PlanetScope image that does not, by the name of its file."""
    order = _PLANET.get(header.count)
    if order and not any(header.descriptions) and "analyticms" in header.path.name.lower():
        return replace(header, descriptions=order)
    return header


def _numbers_in(header: Header, names: Sequence[str], stated: bool) -> tuple[list[int], list[str]]:
    there = [number for number in range(1, header.count + 1) if number != header.alpha]
    in_order = there if len(there) == len(names) else None
    called = _called(header)
    where = [_best(name, called, header) for name in names]
    lacking = [name for name, number in zip(names, where, strict=True) if not number]
    free = [number for number in there if number not in where]
    if in_order and len(lacking) == 1 and not (called[free[0]] and lacking[0] in _SENTINEL):
        where[names.index(lacking[0])] = free[0]  # the only one that is left
        lacking = []
    what = f"{header.path}: its bands are named {_listed(header)}"
    if not lacking:
        numbers = [number for number in where if number]
        by_colour = not any(header.descriptions)
        if numbers == in_order or not (by_colour or (stated and in_order)):
            return numbers, []
        asked = ", ".join(names)
        if by_colour and stated and in_order:
            # Programs mark the first three of 8-bit bands so whatever they are.
            return in_order, [f"{what} by their colours, `bands` says {asked}, which counts"]
        return numbers, [f"{what}, not {asked}: taken by name; where that is wrong, {REMEDY}"]
    if in_order and all(
        found in (None, number)
        and not (name in _SENTINEL and (called[number] or (name,))[0] != name)
        for name, number, found in zip(names, in_order, where, strict=True)
    ):
        if any(header.descriptions) and not any(called.values()) and not _are_counted(header):
            what += f", which is not understood: taken as {', '.join(names)} by position"
            return in_order, [f"{what}; where that is wrong, {REMEDY}"]
        return in_order, []
    named = f" {_listed(header)}" if any(called.values()) else ""
    raise GlacierError(
        f"{header.path}: has {len(there)} band(s){named}, {len(names)} are wanted "
        f"({', '.join(names)}), and no name tells {', '.join(lacking)}; {REMEDY}, or, for one "
        "file a band, by pattern, as in bands: {red: '*_B04.tif'}"
    )


def _called(header: Header) -> dict[int, _Called]:
    """Return the name of each band, by what the file calls it, and a rank: the lower the better."""
    texts = {number: text or "" for number, text in enumerate(header.texts, start=1)}
    words = {number: word_of(text) or _by_wavelength(text) for number, text in texts.items()}
    if len(words) > 1 and len(set(words.values())) == 1:
        words = dict.fromkeys(words)  # of a place, such as Red River
        if _are_counted(header):
            return words
    sensors = map(_sensor, [header.path, *map(Path, texts.values())])
    unknown = _unknown_sensor([*header.texts, header.path.stem])
    own = next((sensor for sensor in sensors if sensor is not None), unknown)
    return {
        number: words[number] or (_by_number(found, own) if (found := number_of(text)) else None)
        for number, text in texts.items()
    }


def _are_counted(header: Header) -> bool:
    """Say whether bands are counted, not named: Band 1, Band 2."""
    texts = enumerate(header.texts, start=1)
    return all(re.match(rf"(band|layer)?[ _]?0*{n}\b", (text or "").lower()) for n, text in texts)


def _by_number(number: str, own: _Numbers) -> tuple[str, int]:
    for name, numbers in own.items():
        if number in numbers:
            return name, numbers.index(number)
    return f"b{number}", 0


def _best(name: str, called: dict[int, _Called], header: Header) -> int | None:
    """Return the number of the band of a name, None where none has it."""
    name = name.lower()
    ranked = sorted(
        (one[1] if one else 0, number) for number, one in called.items()
        if name in (one and one[0], (header.texts[number - 1] or "").strip().lower())
    )  # fmt: skip
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        raise GlacierError(
            f"{header.path}: its bands {ranked[0][1]} and {ranked[1][1]} are both named {name} "
            f"{_listed(header)}; {REMEDY}"
        )
    return ranked[0][1] if ranked else None


def _listed(header: Header) -> str:
    names = [text or "?" for text in header.texts]
    return f"({', '.join(names[:16])}{', ...' if len(names) > 16 else ''})"
