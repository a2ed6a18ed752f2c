"""What mapping the Greenland periphery at 10 m would take, from rates measured on one machine.

How much ground that is:

- Greenland has 2,166,086 km2, of which 410,449 are free of ice (Statistics Greenland, Greenland in
  Figures 2010). Its local glaciers and ice caps, without those that are strongly connected with the
  ice sheet, cover 89,720 +- 2,781 km2 (Rastner et al. 2012, The Cryosphere 6, 1483-1495; with them,
  130,076 km2). Together that is the periphery: 500,169 km2.
- Where it lies was not traced. As a stand-in served the ring of that area inside Greenland's coast
  (Natural Earth, 1:110 million), 57 km wide. Of the official tiling of Sentinel-2 (109.8 km squares
  on the 100 km grid of MGRS), 201 tiles touch it, out of 364 that touch Greenland at all. Tiles
  overlap by 9.8 km, and towards the pole those of neighbouring UTM zones by ever more: 130 tiles,
  chosen one by one for the ground that each adds, leave out a thousandth of the ring.

So the number of tiles is between 130 and 364; the 201 are what a search by that ring would bring.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from glacier_utils.errors import GlacierError

PERIPHERY_KM2 = 410_449 + 89_720
PERIPHERY_TILES = 201
FEWEST_TILES = 130
GREENLAND_TILES = 364
TILE_PX = 10_980**2
# Measured: probability and class of a tile take up to 0.9 bytes per pixel, outlines some MB.
TILE_MB = 110.0
# Assumed: the four bands of a tile as JPEG 2000 or COG, about 130 MB each.
IMAGE_MB = 520.0


@dataclass(frozen=True)
class Effort:
    """``table``: workers, cores, hours; ``sentence``: the same in words, with what was assumed."""

    table: pd.DataFrame
    sentence: str


def greenland_estimate(
    benchmarks: str | Path | Mapping[str, float],
    *,
    cores: int = 2,
    workers: Sequence[int] = (1, 4, 16, 64),
    tiles: int = PERIPHERY_TILES,
    dates: int = 1,
    tile_mb: float = TILE_MB,
) -> Effort:
    """Estimate time and space for the Greenland periphery from measured rates.

    hours = dates x ceil(tiles / workers) x seconds per tile / 3600: scenes do not share work, so
    that workers help in full as long as each has cores of its own and disk and network keep up.

    Args:
        benchmarks: ``reports/benchmarks.json`` or its content: ``scene_full_tile_s``, or else
            ``scene_mpx_s``, millions of pixels per second.
        cores: that the rate was measured with; each worker is given as many.
        workers: numbers of workers to show.
        tiles: number of Sentinel-2 tiles, see above.
        dates: images per tile.
        tile_mb: size of the products of a tile in MB.

    Raises:
        GlacierError: the benchmarks cannot be read or do not hold a rate.
    """
    seconds = _seconds_per_tile(benchmarks)
    rows = [
        {"workers": number, "cores": number * cores,
         "hours": dates * math.ceil(tiles / number) * seconds / 3600}
        for number in workers
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    scenes = tiles * dates
    first, last = rows[0], rows[-1]
    sentence = (
        f"The Greenland periphery ({PERIPHERY_KM2:,} km2, about {tiles} Sentinel-2 tiles; "
        f"{FEWEST_TILES} would cover it) at 10 m is {scenes * TILE_PX / 1e9:.1f} billion pixels: "
        f"at {seconds:.0f} s per tile on {cores} cores it takes {_words(first['hours'])} with "
        f"{first['workers']} worker{'s' if first['workers'] > 1 else ''} and "
        f"{_words(last['hours'])} with {last['workers']}, "
        f"{scenes * tile_mb / 1000:.0f} GB for the maps and {scenes * IMAGE_MB / 1000:.0f} GB to "
        "read."
    )
    return Effort(table, sentence)


def _words(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"


def _seconds_per_tile(benchmarks: str | Path | Mapping[str, float]) -> float:
    where = "benchmarks"
    if not isinstance(benchmarks, Mapping):
        where = str(benchmarks)
        try:
            benchmarks = json.loads(Path(benchmarks).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GlacierError(f"{where}: cannot be read; make it with `make bench`") from error
    for key, seconds in (("scene_full_tile_s", float), ("scene_mpx_s", _at_rate)):
        value = benchmarks.get(key) if isinstance(benchmarks, Mapping) else None
        if isinstance(value, int | float) and math.isfinite(value) and value > 0:
            return seconds(value)
    raise GlacierError(
        f"{where}: holds neither scene_full_tile_s nor scene_mpx_s above 0; make it with "
        "`make bench`"
    )


def _at_rate(mpx_s: float) -> float:
    return TILE_PX / 1e6 / mpx_s
