"""Blocks of ground and what follows from them: intervals, differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy import fft, stats

from glacier_utils import metrics
from glacier_utils.evaluation import bootstrap
from glacier_utils.raster.grid import Grid


def grid(shape, *, pixel=10.0, crs="EPSG:32623"):
    return Grid(crs and CRS.from_user_input(crs), Affine(pixel, 0, 0, 0, -pixel, 0), *shape)


def random_field(generator: np.random.Generator, side: int, length: float) -> np.ndarray:
    """A Gaussian field [side, side], mean 0, variance 1, correlation exp(-d / length), in px.

    By the spectral method on a torus that is 4 lengths wider, so that its rims are no neighbours
    (Dietrich & Newsam 1997). The correlation is 0.1 at 2.3 lengths.
    """
    whole = fft.next_fast_len(side + math.ceil(4 * length))
    steps = np.minimum(np.arange(whole), whole - np.arange(whole))
    covariance = np.exp(-np.hypot(steps[:, None], steps[None, :]) / length)
    amplitude = np.sqrt(np.maximum(fft.fft2(covariance).real, 0))
    noise = generator.standard_normal((2, whole, whole))
    field = fft.fft2(amplitude * (noise[0] + 1j * noise[1])).real / whole
    return field[:side, :side]


# --- correlation


def test_errors_are_known_where_both_are():
    mask = np.array([[0, 1, 1, 255, 0]], np.uint8)
    reference = np.array([[0, 0, 1, 1, 255]], np.uint8)
    np.testing.assert_array_equal(bootstrap.errors(mask, reference), [[0, 1, 0, np.nan, np.nan]])


@settings(max_examples=25)
@given(st.integers(3, 11), st.integers(3, 11), st.integers(0, 2**16))
def test_correlogram_like_the_sum_over_all_pairs(height, width, seed):
    generator = np.random.default_rng(seed)
    field = generator.integers(0, 2, (height, width)).astype(float)
    field[generator.random(field.shape) < 0.2] = np.nan
    found = bootstrap.correlogram(field, 10.0)
    assert len(found) == min(height, width) // 2 + 1
    values = {
        (row, col): value - np.nanmean(field)
        for (row, col), value in np.ndenumerate(field)
        if np.isfinite(value)
    }
    products: dict[int, list[float]] = {}
    for one, a in values.items():
        for other, b in values.items():
            distance = round(math.hypot(one[0] - other[0], one[1] - other[1]))
            products.setdefault(distance, []).append(a * b)
    if len(values) < 1 or np.ptp(list(values.values())) == 0:
        assert found["correlation"].isna().all()
        return
    for row in found.itertuples():
        pairs = products.get(round(row.distance_m / 10), [])
        assert row.pairs == len(pairs)
        if pairs:
            expected = np.mean(pairs) / np.mean(products[0])
            assert row.correlation == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("length", [60.0, 150.0])
def test_the_length_of_a_field_of_known_correlation(length):
    # exp(-d / length) falls below 0.1 at 2.3 lengths and below 1/e at one.
    generator = np.random.default_rng(0)
    fields = [random_field(generator, 300, length / 10) for _ in range(6)]
    curves = [bootstrap.correlogram(field, 10.0) for field in fields]
    mean = pd.concat(curves).groupby("distance_m", as_index=False).mean()
    assert bootstrap.correlation_length(mean, 1 / math.e) == pytest.approx(length, rel=0.15)
    assert bootstrap.correlation_length(mean) == pytest.approx(length * math.log(10), rel=0.2)


def test_lengths_by_hand():
    curve = pd.DataFrame({"distance_m": [0, 10, 20], "correlation": [1.0, 0.3, -0.1]})
    assert bootstrap.correlation_length(curve, 0.2) == pytest.approx(12.5)
    assert bootstrap.correlation_length(curve, 0.65) == pytest.approx(5)
    assert bootstrap.correlation_length(curve, -0.5) == math.inf
    assert math.isnan(bootstrap.correlation_length(bootstrap.correlogram(np.ones((9, 9)), 10.0)))
    assert math.isnan(
        bootstrap.correlation_length(bootstrap.correlogram(np.full((9, 9), np.nan), 10.0))
    )


def test_of_large_maps_every_third_row_and_column_is_taken(monkeypatch):
    generator = np.random.default_rng(1)
    field = random_field(generator, 300, 20.0)
    field[:40, :50] = np.nan
    fine = bootstrap.correlation_length(bootstrap.correlogram(field, 10.0))
    monkeypatch.setattr(bootstrap, "_LARGEST", 100)
    curve = bootstrap.correlogram(field, 10.0)
    assert curve["distance_m"].diff().dropna().eq(30).all()
    assert bootstrap.correlation_length(curve) == pytest.approx(fine, rel=0.1)


# --- the side


@pytest.mark.parametrize(
    ("length", "extent", "side", "number", "enough"),
    [
        (500, (40_000, 40_000), 2000, 400, True),  # four lengths, and many blocks
        (1200, (12_800, 12_800), 3200, 16, True),  # as large as sixteen blocks allow
        (5000, (12_800, 12_800), 3200, 16, False),
        (math.inf, (12_800, 12_800), 3200, 16, False),
        (math.nan, (12_800, 12_800), 3200, 16, True),
        (2000, (4000, 40_000), 2500, 16, True),  # a strip is cut across only
    ],
)
def test_side_of_the_blocks(length, extent, side, number, enough):
    found = bootstrap.block_side(length, extent)
    assert found.side_m == pytest.approx(side)
    assert (found.blocks, found.enough) == (number, enough)
    assert ("too narrow" in found.reason) is not enough


@settings(max_examples=60)
@given(st.floats(1, 1e5), st.floats(1e3, 1e5), st.floats(1e3, 1e5))
def test_there_are_never_fewer_blocks_than_sixteen(length, height, width):
    found = bootstrap.block_side(length, (height, width))
    assert found.blocks >= 16
    assert found.enough == (found.side_m > length)
    assert found.side_m <= bootstrap.LENGTHS * length * (1 + 1e-9)


# --- counts


@settings(max_examples=40)
@given(
    height=st.integers(5, 70),
    width=st.integers(5, 70),
    pixel=st.sampled_from([1.0, 10.0, 100.0, 5000.0]),
    crs=st.sampled_from([None, "EPSG:32623"]),
    seed=st.integers(0, 99),
)
def test_counts_of_the_blocks_add_up_to_those_of_the_whole(height, width, pixel, crs, seed):
    generator = np.random.default_rng(seed)
    mask, reference = generator.choice([0, 1, 255], (2, height, width)).astype(np.uint8)
    counts = bootstrap.block_counts(mask, reference, grid((height, width), pixel=pixel, crs=crs))
    assert counts["block"].is_unique
    assert len(counts) >= 16
    whole = metrics.count(mask, reference)
    assert counts[metrics.COUNTS].sum().tolist() == list(vars(whole).values())


def test_blocks_are_equal_and_no_smaller_than_asked_for():
    mask = np.ones((400, 1300), np.uint8)
    counts = bootstrap.block_counts(mask, mask, grid(mask.shape, pixel=30.0))
    assert len(counts) == 4 * 12  # 12.0 km and 39.0 km of 3.2 km, but four a side at least
    assert counts["tp"].between(100 * 108, 100 * 109).all()
    counts = bootstrap.block_counts(mask, mask, grid(mask.shape, pixel=30.0), side_m=7000.0)
    assert counts["block"].tolist() == [f"00-{col:02d}" for col in range(5)]


def counted(blocks, seed=0, recall=0.8):
    rng = np.random.default_rng(seed)
    tp = rng.binomial(100, np.clip(rng.normal(recall, 0.1, blocks), 0, 1))
    fp, tn = rng.integers(0, 20, blocks), rng.integers(50, 100, blocks)
    table = {"tp": tp, "fp": fp, "fn": 100 - tp, "tn": tn}
    return pd.DataFrame(table).assign(block=[f"b{number}" for number in range(blocks)])


def worsened(frame, by):
    """The same map with ``by`` hits of each block missed instead."""
    return frame.assign(tp=frame["tp"] - by, fn=frame["fn"] + by)


# --- one score


def estimate(
    frame: pd.DataFrame, score: str = "iou", samples: int = 2000, seed: int = 0
) -> bootstrap.Estimate:
    return bootstrap._estimate(bootstrap._block_sums([frame]), score, samples, seed)


def test_the_interval_holds_the_score_and_repeats():
    frame = counted(30)
    low, high = bootstrap.score_interval(frame)
    assert low < metrics.score_table(frame)["iou"] < high
    assert (low, high) == bootstrap.score_interval(frame)
    assert (low, high) != estimate(frame, seed=1).interval()
    narrow = estimate(frame).interval(0.5)
    assert low < narrow[0] < narrow[1] < high


def test_the_interval_is_that_of_a_mean_where_the_score_is_one():
    # With 100 glacier pixels a block the recall is a mean of blocks, whose interval is Student's.
    frame = counted(12)
    low, high = estimate(frame.assign(fp=0), "recall", samples=20_000).interval()
    values = frame["tp"] / 100
    expected = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=2e-3)


def test_two_blocks_by_hand():
    # A draw holds the first twice (IoU 1), the second twice (0), or one of each (0.5): a deviation
    # of sqrt(1/8), times sqrt(2) for two blocks, is 0.5; one degree of freedom.
    frame = pd.DataFrame({"tp": [1, 0], "fp": [0, 0], "fn": [0, 1], "tn": 0, "block": ["a", "b"]})
    assert bootstrap.score_interval(frame) == (0.0, 1.0)
    reach = 0.5 * stats.t.ppf(0.6, 1)
    found = estimate(frame, samples=100_000).interval(0.2)
    assert found == pytest.approx((0.5 - reach, 0.5 + reach), abs=2e-3)


def test_blocks_are_drawn_and_not_patches():
    # A hundred patches in two blocks say no more than two blocks.
    alone = counted(4)
    frame = pd.concat([alone] * 50, ignore_index=True)
    assert bootstrap.score_interval(frame) == pytest.approx(bootstrap.score_interval(alone))


def test_blocks_that_hold_little_ice_count_for_little():
    # 20 blocks, three of which hold nearly all of the ice: about three blocks, not twenty.
    frame = counted(20)
    few = frame.copy()
    few.loc[3:, ["tp", "fp", "fn"]] = [1, 0, 0]
    low, high = bootstrap.score_interval(few, score="recall")
    error = few["tp"].iloc[:3].std() / 100 / math.sqrt(3)
    assert high - low > 2 * stats.t.ppf(0.975, 2) * error * 0.8


@pytest.mark.parametrize("rest", [0, None])
def test_nothing_can_be_said_from_one_block(rest):
    frame = counted(1 if rest is None else 6)
    if rest is not None:  # six blocks, but ice in one only
        frame.loc[1:, ["tp", "fp", "fn"]] = rest
        assert np.isfinite(bootstrap.score_interval(frame, score="accuracy")).all()
    assert np.isnan(bootstrap.score_interval(frame)).all()
    difference, low, high = paired(frame, frame)
    assert difference == 0
    assert math.isnan(low)
    assert math.isnan(high)
    assert bootstrap.verdict(low, high) == "not distinguishable"


def test_blocks_without_a_known_pixel_are_none():
    frame = counted(6)
    unknown = pd.DataFrame({"tp": 0, "fp": 0, "fn": 0, "tn": 0, "block": ["x", "y"]})
    found = bootstrap.score_interval(pd.concat([frame, unknown]))
    assert found == bootstrap.score_interval(frame)


@settings(max_examples=40)
@given(st.integers(2, 20), st.integers(0, 2**16), st.sampled_from(list(metrics.SCORES)))
def test_intervals_stay_within_what_a_score_can_be(number, seed, score):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.integers(0, 5, (number, 4)), columns=metrics.COUNTS)
    frame["block"] = np.arange(number)
    low, high = bootstrap.score_interval(frame, score=score)
    value = metrics.score_table(frame)[score]
    if math.isnan(low):
        return
    assert metrics.LOWEST[score] <= low <= value <= high <= 1


def test_scores_with_interval_begin_with_the_iou():
    frame = counted(10)
    found = bootstrap.scores_with_interval(frame)
    assert list(found)[:4] == ["iou", "iou_low", "iou_high", "f1"]
    assert {**found} == {
        **metrics.score_table(frame), "iou_low": found["iou_low"], "iou_high": found["iou_high"]
    }  # fmt: skip


# --- differences


def paired(one: pd.DataFrame, other: pd.DataFrame) -> tuple[float, float, float]:
    return tuple(bootstrap.compare({"a": one, "b": other})[["difference", "low", "high"]].iloc[0])


def test_a_paired_difference_sees_what_two_intervals_do_not():
    better = counted(30)
    worse = worsened(better, 1)
    difference, low, high = paired(better, worse)
    assert 0 < low < difference < high
    assert bootstrap.score_interval(better)[0] < bootstrap.score_interval(worse)[1]
    assert paired(worse, worse) == (0, 0, 0)


def test_a_difference_needs_the_same_blocks():
    with pytest.raises(ValueError, match="same blocks"):
        paired(counted(3), counted(4))


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.1, 0.2, "better"),
        (-0.2, -0.1, "worse"),
        (-0.1, 0.1, "not distinguishable"),
        (0.0, 0.1, "not distinguishable"),
        (np.nan, np.nan, "not distinguishable"),
    ],
)
def test_verdict(low, high, word):
    assert bootstrap.verdict(low, high) == word


def test_p_values_are_holms():
    # By hand: 0.01 x 3, then 0.03 x 2, then 0.04 x 1 which may not fall below the one before.
    assert bootstrap._holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert bootstrap._holm(np.array([0.9, 0.8])).tolist() == [1, 1]


def test_p_and_interval_say_the_same():
    for seed in range(20):
        counts = {"a": counted(9, seed), "b": counted(9, seed + 100)}
        table = bootstrap.compare(counts)
        (row,) = table.itertuples()
        assert (row.p < 0.05) == (row.verdict != "not distinguishable")
        assert row.p == row.p_holm


def test_one_model_is_compared_with_none():
    assert bootstrap.compare({"alone": counted(9)}).empty


def test_of_many_equal_models_some_look_different():
    # Twelve models that are equally good, 66 comparisons: Holm's p lets none through.
    counts = {f"m{seed}": counted(9, seed) for seed in range(12)}
    pairs = bootstrap.compare(counts)
    assert (pairs["verdict"] != "not distinguishable").any()
    assert (pairs["p_holm"] > 0.05).all()


# --- how often an interval holds the truth


def few_blocks(number=16, seed=3):
    """Blocks like those of a glacier map: very unequal in ice, and unequally well mapped."""
    generator = np.random.default_rng(seed)
    ice = generator.gamma(1.0, 3000, number).astype(int)
    hit = (ice * generator.beta(8, 2, number)).astype(int)
    false = (ice.mean() * generator.beta(1, 4, number)).astype(int)
    return pd.DataFrame({"tp": hit, "fp": false, "fn": ice - hit, "tn": 10_000})


def random_landscapes(
    repeats: int, *, side_m: float | None = None, reach_m=(300.0, 200.0), ice=0.3, wrong=0.1
) -> tuple[Iterator[pd.DataFrame], float]:
    """Counts per block of maps of random landscapes, and their IoU on unlimited ground.

    Glacier is where a random field is high, an error of the map where another one is (alike over
    ``reach_m`` each), so that IoU = i (1 - w) / (i + (1 - i) w) for the fractions i of glacier and
    w of errors. 12.8 km in pixels of 100 m.
    """

    def counts() -> Iterator[pd.DataFrame]:
        generator = np.random.default_rng(0)
        for _ in range(repeats):
            truth, error = (
                random_field(generator, 128, reach / 100) > stats.norm.isf(part)
                for reach, part in zip(reach_m, (ice, wrong), strict=True)
            )
            codes = (part.astype(np.uint8) for part in (truth ^ error, truth))
            yield bootstrap.block_counts(*codes, grid((128, 128), pixel=100.0), side_m=side_m)

    return counts(), ice * (1 - wrong) / (ice + (1 - ice) * wrong)


def drawn(counts: pd.DataFrame, repeats: int) -> tuple[Iterator[pd.DataFrame], float]:
    """Sixteen blocks of a map drawn anew, and the map's IoU: few and unequal, but independent."""
    generator = np.random.default_rng(0)
    numbers = counts[metrics.COUNTS].to_numpy()
    tables = (
        pd.DataFrame(
            numbers[generator.integers(0, len(numbers), 16)], columns=metrics.COUNTS
        ).assign(block=range(16))
        for _ in range(repeats)
    )
    return tables, metrics.score_table(counts)["iou"]


def by_percentiles(counts: pd.DataFrame) -> tuple[float, float]:
    """The usual interval: too narrow with few blocks."""
    sums = counts[metrics.COUNTS].to_numpy()
    generator = np.random.default_rng(0)
    draws = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=400) @ sums
    low, high = np.nanquantile(metrics.SCORES["iou"](*draws.T), [0.025, 0.975])
    return low, high


def held(tables: Iterable[pd.DataFrame], truth: float) -> tuple[float, float]:
    """How often the interval holds the truth, and how often that by percentiles does."""
    found = []
    for counts in tables:
        ends = estimate(counts, samples=400).interval(), by_percentiles(counts)
        found.append([low <= truth <= high for low, high in ends if np.isfinite(low)])
    ours, usual = np.mean(found, axis=0)
    return ours, usual


def test_fields_have_the_correlation_that_they_promise():
    generator = np.random.default_rng(0)
    fields = np.stack([random_field(generator, 64, 8.0) for _ in range(200)])
    assert fields.mean() == pytest.approx(0, abs=0.05)
    assert fields.var() == pytest.approx(1, abs=0.06)
    for lag in (4, 8, 16):
        found = np.mean(fields[:, :, lag:] * fields[:, :, :-lag])
        assert found == pytest.approx(math.exp(-lag / 8), abs=0.05)


def test_the_true_iou_of_random_landscapes():
    tables, truth = random_landscapes(60, wrong=0.2)
    assert truth == pytest.approx(0.24 / 0.44)
    pooled = metrics.score_table(pd.concat(list(tables)))["iou"]
    assert pooled == pytest.approx(truth, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("trial", [random_landscapes(300), drawn(few_blocks(), 300)])
def test_the_interval_holds_the_truth_as_often_as_it_says(trial):
    ours, usual = held(*trial)
    assert 0.92 <= ours <= 0.97
    assert usual < ours


@pytest.mark.slow
def test_blocks_below_the_correlation_length_promise_too_much():
    # Errors are alike over 1.2 km: a hundred blocks of 1.28 km, or sixteen of 3.2 km.
    small, large = (
        held(*random_landscapes(60, side_m=side, reach_m=(800.0, 800.0)))[0]
        for side in (1280.0, 3200.0)
    )
    assert small < 0.8 < large
