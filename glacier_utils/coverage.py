"""How often an interval holds the truth, tried where the truth is known.

An interval of 95 % that holds it 80 times in 100 is no interval. Two trials: worlds of random
fields, whose glaciers and errors are alike over stated lengths and whose true IoU is known from the
normal distribution; and draws from the blocks of a real map, whose pooled score is the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
from affine import Affine
from rasterio.crs import CRS
from scipy import fft, stats

from glacier_utils.evaluation import bootstrap
from glacier_utils.evaluation.bootstrap import LEAST_BLOCKS, block_counts
from glacier_utils.metrics import COUNTS, SCORES, score_table
from glacier_utils.raster.grid import Grid

Interval = Callable[[pd.DataFrame], tuple[float, float]]
PIXEL_M = 100.0  # of the random worlds


def random_field(generator: np.random.Generator, side: int, length: float) -> np.ndarray:
    """Return a Gaussian field [side, side], mean 0, variance 1, correlation exp(-d / length).

    By the spectral method on a torus that is 4 lengths wider, so that its rims are no neighbours
    (Dietrich & Newsam 1997). ``length`` in pixels; the correlation is 0.1 at 2.3 lengths.
    """
    whole = fft.next_fast_len(side + math.ceil(4 * length))
    steps = np.minimum(np.arange(whole), whole - np.arange(whole))
    covariance = np.exp(-np.hypot(steps[:, None], steps[None, :]) / length)
    amplitude = np.sqrt(np.maximum(fft.fft2(covariance).real, 0))
    noise = generator.standard_normal((2, whole, whole))
    field = fft.fft2(amplitude * (noise[0] + 1j * noise[1])).real / whole
    return field[:side, :side]


def random_worlds(
    repeats: int,
    *,
    extent_m: float = 12_800.0,
    side_m: float | None = None,
    glacier_m: float = 300.0,
    error_m: float = 200.0,
    share: float = 0.3,
    wrong: float = 0.1,
    seed: int = 0,
) -> tuple[Iterator[pd.DataFrame], float]:
    """Make worlds with a map of each, and the IoU that they have on unlimited ground.

    Glacier is where a random field is high, an error of the map where another one is, so that
    IoU = s (1 - w) / (s + (1 - s) w) for the shares s of glacier and w of errors. Pixels of 100 m.

    Args:
        repeats: number of worlds.
        extent_m, side_m: of the area and of the blocks, as for `bootstrap.block_counts`.
        glacier_m, error_m: lengths of the fields (the correlation is exp(-d / length)); that of the
            errors, being 0 or 1, falls below 0.1 at about 1.4 lengths.
        share, wrong: of glacier and of errors.

    Returns:
        Counts per block of each world, and the true IoU.
    """
    side = round(extent_m / PIXEL_M)
    grid = Grid(CRS.from_epsg(32623), Affine(PIXEL_M, 0, 0, 0, -PIXEL_M, 0), side, side)

    def worlds() -> Iterator[pd.DataFrame]:
        generator = np.random.default_rng(seed)
        for _ in range(repeats):
            truth, error = (
                random_field(generator, side, length / PIXEL_M) > stats.norm.isf(part)
                for length, part in ((glacier_m, share), (error_m, wrong))
            )
            codes = (part.astype(np.uint8) for part in (truth ^ error, truth))
            yield block_counts(*codes, grid, side_m=side_m)

    return worlds(), share * (1 - wrong) / (share + (1 - share) * wrong)


def drawn_worlds(
    counts: pd.DataFrame, repeats: int, *, blocks: int = LEAST_BLOCKS, seed: int = 0
) -> tuple[Iterator[pd.DataFrame], float]:
    """Draw worlds of some blocks from those of a real map, and return the map's IoU.

    Blocks are drawn with replacement and so are independent: this tries what few and unequal
    blocks do to an interval, not whether neighbouring blocks are alike.
    """
    numbers = counts[COUNTS].to_numpy()
    names = [f"{block:03d}" for block in range(blocks)]

    def worlds() -> Iterator[pd.DataFrame]:
        generator = np.random.default_rng(seed)
        for _ in range(repeats):
            chosen = numbers[generator.integers(0, len(numbers), blocks)]
            yield pd.DataFrame(chosen, columns=COUNTS).assign(block=names)

    return worlds(), score_table(counts)["iou"]


def percentile(frame: pd.DataFrame, *, level: float = 0.95, samples: int = 2000, seed: int = 0):
    """Return the percentile interval of the IoU, for comparison: too narrow with few blocks."""
    sums = frame[COUNTS].to_numpy()
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=samples)
    draws = SCORES["iou"](*(drawn @ sums).T)
    tail = (1 - level) / 2
    return tuple(float(end) for end in np.nanquantile(draws, [tail, 1 - tail]))


METHODS: dict[str, Interval] = {"t": bootstrap.bootstrap, "percentile": percentile}


def coverage(
    worlds: Iterable[pd.DataFrame], truth: float, methods: dict[str, Interval] = METHODS
) -> pd.DataFrame:
    """Count how often intervals hold the truth.

    Args:
        worlds, truth: of `random_worlds`, `drawn_worlds`, or counts with a column ``block`` of
            many real maps and the score of all together.
        methods: name -> interval of a table of counts.

    Returns:
        method, worlds (those with an interval), coverage with low and high (95 %, Wilson 1927, of
        that share), above and below (shares of the intervals that lie wholly above or below the
        truth), width (their mean).
    """
    ends: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for world in worlds:
        for name, method in methods.items():
            ends[name].append(method(world))
    rows = []
    for name, found in ends.items():
        low, high = np.array(found).reshape(-1, 2).T
        known = np.isfinite(low) & np.isfinite(high)
        low, high = low[known], high[known]
        held = int(((low <= truth) & (truth <= high)).sum())
        row = {"method": name, "worlds": int(known.sum()), "coverage": math.nan}
        if known.any():
            share = stats.binomtest(held, len(low)).proportion_ci(method="wilson")
            row |= {"coverage": held / len(low), "low": share.low, "high": share.high}
            row |= {"above": (low > truth).mean(), "below": (high < truth).mean()}
            row["width"] = (high - low).mean()
        rows.append(row)
    return pd.DataFrame(rows)
