"""Which band is which, by what files call them: descriptions, colours, names of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from glacier_utils.errors import GlacierError
from glacier_utils.raster.io import Header

_Numbers = dict[str, tuple[str, ...]]
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
_WORDS = {"red": "red", "green": "green", "blue": "blue", "nir": "nir", "nir1": "nir",
          "nir08": "nir", "broadnir": "nir", "nearinfrared": "nir"}  # fmt: skip
_LETTERS = {"r": "red", "g": "green", "b": "blue", "n": "nir"}
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
    for part in (path.name, path.parent.name):
        for form, numbers in _SENSORS:
            if form.search(part.lower()):
                return numbers
    return None


def _of_landsat(texts: Sequence[str]) -> _Numbers:
    """Return the numbers of bands by their names alone: none where SR_B4 may be of any Landsat."""
    if any(re.search(r"(?<![a-z])sr_b\d", text) for text in texts):
        return _OLI if any("sr_b6" in text for text in texts) else {}
    return _SENTINEL


def word_of(text: str) -> tuple[str, int] | None:
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
    words = {_WORDS[word] for word in plain.split() if word in _WORDS}
    return (words.pop(), int(plain not in _LETTERS.values())) if len(words) == 1 else None


def number_of(text: str) -> str | None:
    """Return the number (4, 8a) of the band that a text names, None where there is no or no one."""
    found = set(_NUMBER.findall(text.lower()))
    return found.pop() if len(found) == 1 else None


def files_called(names: Sequence[str], files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files that are named as each band: by the best of its numbers, else by a word."""
    texts = [path.stem.lower() for path in files]
    landsat = _of_landsat(texts)
    own = {path: landsat if (sensor := _sensor(path)) is None else sensor for path in files}
    numbers = {path: number_of(path.stem) for path in files}
    words = {path: word_of(path.stem) for path in files}
    found: dict[str, list[Path]] = {}
    for name in names:
        ranked: list[tuple[int, Path]] = []
        for path in files:
            mine, word = own[path].get(name, ()), words[path]
            if numbers[path] in mine:
                ranked.append((mine.index(numbers[path]), path))
            elif name in _SENTINEL and word and word[0] == name:
                ranked.append((10 + word[1], path))
            elif name not in _SENTINEL and name.lower() in re.split(
                r"[^a-z0-9]+", path.stem.lower()
            ):
                ranked.append((0, path))
        best = min(ranked, default=(0,))[0]
        found[name] = [path for rank, path in ranked if rank == best]
    return found


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
    """Return a warning where a band is taken as one and its description calls it another."""
    text = header.texts[number - 1] if any(header.descriptions) else None
    called = _called(text, _own(header))
    if not called or name not in _SENTINEL or called[0] not in {*_SENTINEL, "other"} - {name}:
        return []
    return [
        f"{header.path}: band {number} is taken as {name}, but the file calls it {text!r}; check "
        "which is right"
    ]


def _own(header: Header) -> _Numbers:
    """Return the numbers of the bands of a file's sensor."""
    sensor = _sensor(header.path)
    texts = [(text or "").lower() for text in (*header.texts, header.path.stem)]
    return _of_landsat(texts) if sensor is None else sensor


def _numbers_in(header: Header, names: Sequence[str], stated: bool) -> tuple[list[int], list[str]]:
    there = [number for number in range(1, header.count + 1) if number != header.alpha]
    in_order = there if len(there) == len(names) else None
    called = _all_called(header, there)
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
        return in_order, []
    named = f" {_listed(header)}" if any(called.values()) else ""
    raise GlacierError(
        f"{header.path}: has {len(there)} band(s){named}, {len(names)} are wanted "
        f"({', '.join(names)}), and no name tells {', '.join(lacking)}; {REMEDY}, or, for one "
        "file a band, by pattern, as in bands: {red: '*_B04.tif'}"
    )


def _all_called(header: Header, there: Sequence[int]) -> dict[int, tuple[str, int] | None]:
    texts, own = header.texts, _own(header)
    if all(re.match(rf"band[ _]?0*{number}\b", (texts[number - 1] or "").lower())
           and not word_of(texts[number - 1] or "") for number in there):  # fmt: skip
        return dict.fromkeys(there)  # counted, not named
    return {number: _called(texts[number - 1], own) for number in there}


def _called(text: str | None, own: _Numbers) -> tuple[str, int] | None:
    """Return the name of a band by its description, and a rank: the lower the better."""
    if not text:
        return None
    if (word := word_of(text)) is not None:
        return word
    number = number_of(text)
    for name, numbers in own.items():
        if number in numbers:
            return name, numbers.index(number)
    return None if number is None else (f"b{number}", 0)


def _best(name: str, called: dict[int, tuple[str, int] | None], header: Header) -> int | None:
    """Return the number of the band of a name, None where none has it."""
    ranked = sorted(
        (one[1], number) for number, one in called.items() if one and one[0] == name.lower()
    ) or [
        (0, number) for number in called
        if (header.texts[number - 1] or "").strip().lower() == name.lower()
    ]  # fmt: skip
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        raise GlacierError(
            f"{header.path}: its bands {ranked[0][1]} and {ranked[1][1]} are both named {name} "
            f"{_listed(header)}; {REMEDY}"
        )
    return ranked[0][1] if ranked else None


def _listed(header: Header) -> str:
    names = [text or "?" for text in header.texts]
    return f"({', '.join(names[:16])}{', ...' if len(names) > 16 else ''})"
