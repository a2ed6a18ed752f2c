"""Several models on one area: patches whose scores are known, and the area as one map."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import BANDS

from glacier_utils import metrics
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.patches import build_patches
from glacier_utils.datasets.store import PatchStore
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation import comparison
from glacier_utils.evaluation.calibration import apply_temperature, fit_temperature, histogram
from glacier_utils.models.checkpoint import Segmenter, save_checkpoint
from glacier_utils.prediction.mapper import predict_patches

SIZE, PIXEL = 8, 10.0
DATE = "2023-08"


def make_store(
    rows: int = 3,
    cols: int = 4,
    *,
    areas=("test",),
    truth: bool = True,
    pixel: float = PIXEL,
    crs: str | None = "EPSG:32623",
    order: np.ndarray | None = None,
) -> PatchStore:
    """A store of ``rows`` x ``cols`` patches an area; glacier is the left half of each area.

    The truth holds one column less of it than the labels.
    """
    index, labels, true = [], [], []
    for number, area in enumerate(areas):
        label = np.zeros((rows * SIZE, cols * SIZE), np.uint8)
        label[:, : cols * SIZE // 2] = 1
        known = label.copy()
        known[:, cols * SIZE // 2 - 1] = 0
        for row in range(0, rows * SIZE, SIZE):
            for col in range(0, cols * SIZE, SIZE):
                part = np.s_[row : row + SIZE, col : col + SIZE]
                labels.append(label[part])
                true.append(known[part])
                left, top = 500_000 + number * 90_000 + col * pixel, 6_800_000 - row * pixel
                box = shapely.box(left, top - SIZE * pixel, left + SIZE * pixel, top)
                block = f"{area}:{row // SIZE}"
                index.append((area, "2023-08", row, col, "test", block, box))
    names = ["area", "date", "row", "col", "split", "block", "geometry"]
    table = gpd.GeoDataFrame(pd.DataFrame(index, columns=names), geometry="geometry", crs=crs)
    order = np.arange(len(table)) if order is None else order
    table = table.iloc[order].reset_index(drop=True)
    table.insert(0, "patch", np.arange(len(table)))
    table["reason"] = ""
    labels, true = np.stack(labels)[order], np.stack(true)[order]
    images = np.where(labels[:, None] == 1, 0.5, 0.1).repeat(4, axis=1).astype(np.float32)
    return PatchStore(
        Path("patches/stub"), "stub", BANDS, {}, images, labels, true if truth else None, None,
        table, {"mean": [0.0] * 4, "std": [1.0] * 4}, pd.DataFrame(),
    )  # fmt: skip


def everything(store: PatchStore) -> np.ndarray:
    return np.arange(len(store))


def models(*names: str, seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame(
        {"model": names, "architecture": names, "seed": seed, "threshold": 0.5, "kind": "network"}
    )


# ---- patches to a map and back


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False), st.data())
def test_assemble_and_cut_are_each_others_inverse(rows, cols, random, data):
    order = np.array(random.sample(range(rows * cols), rows * cols))
    store = make_store(rows, cols, order=order)
    chosen = data.draw(st.sets(st.sampled_from(range(len(store))), min_size=1).map(sorted))
    positions = np.array(random.sample(chosen, len(chosen)))
    dtype = data.draw(st.sampled_from([np.uint8, np.float32]))
    values = np.random.default_rng(0).integers(0, 2, (len(positions), SIZE, SIZE)).astype(dtype)
    whole, grid = comparison.assemble(values, store, positions)
    np.testing.assert_array_equal(comparison.cut(whole, store, positions), values)
    assert whole.dtype == dtype
    # What no patch covers is unknown, and the grid is that of the map.
    gaps = np.isnan(whole) if dtype == np.float32 else whole == 255
    assert gaps.sum() == whole.size - values.size
    assert grid.shape == whole.shape
    assert grid.bounds == pytest.approx(tuple(store.index.iloc[positions].total_bounds))


def test_assemble_puts_each_patch_in_its_place():
    store = make_store(2, 3)
    whole, grid = comparison.assemble(store.labels, store, everything(store))
    assert (whole[:, :12] == 1).all()
    assert (whole[:, 12:] == 0).all()
    assert grid.bounds == (500_000, 6_800_000 - 160, 500_240, 6_800_000)


def test_assemble_takes_one_area_only():
    store = make_store(areas=("one", "two"))
    with pytest.raises(ValueError, match="one area and one date"):
        comparison.assemble(store.labels, store, everything(store))


# ---- references, predictions, masks


def test_references_are_labels_and_truth_where_known():
    store = make_store()
    assert list(comparison.references(store, everything(store))) == ["labels", "truth"]
    assert list(comparison.references(make_store(truth=False), np.array([0, 3]))) == ["labels"]


def test_what_one_reference_does_not_know_counts_in_neither():
    store = make_store()
    store.labels[0, :2], store.truth[0, 2:4] = 255, 255
    found = comparison.references(store, everything(store))
    for mask in found.values():
        assert (mask[0, :4] == 255).all()
        assert (mask[0, 4:] != 255).all()
    assert (store.truth[0, :2] != 255).all()  # the store itself stays as it was


def test_no_patch_to_judge_is_an_error():
    with pytest.raises(GlacierError, match=r"stub: no test patches; name their area in test_areas"):
        comparison.references(make_store(), np.array([], int))


def test_models_map_the_scene_and_the_chosen_patches_are_cut_out(make_dataset, tmp_path):
    data = open_dataset(make_dataset())
    # Patches of 40 px stick out of a frame of 128 x 192 px.
    store = build_patches(data, size=40, block_m=400, max_unknown=0.9)
    positions = store.select(split="test", date=DATE)[[5, 0, 9]]
    rule = Segmenter("threshold", BANDS, [0] * 4, [1] * 4)
    network = Segmenter("unet-resnet18", BANDS, [0.3] * 4, [0.2] * 4)
    for model in (rule, network):
        save_checkpoint(tmp_path / f"{model.name}.pt", model)
    paths = {name: tmp_path / f"{name}.pt" for name in ("threshold", "unet-resnet18")}
    found = comparison.predict_models(paths, data, store, positions)
    valid = store.valid(positions)
    for probability in found.values():
        np.testing.assert_array_equal(np.isnan(probability), ~valid)
    # A rule on single pixels says of a patch what it says of the scene ...
    alone = predict_patches(rule, store.images, positions=positions)
    np.testing.assert_allclose(found["threshold"][valid], alone[valid], atol=1e-3)
    # ... a network says more, since it sees what lies around.
    alone = predict_patches(network, store.images, positions=positions)
    assert np.abs(found["unet-resnet18"] - alone)[valid].max() > 1e-3
    masks = comparison.classify_models(models(*found), found)
    assert (masks["threshold"][~valid] == 255).all()


def test_each_model_has_its_own_threshold():
    table = models("low", "high").assign(threshold=[0.2, 0.8])
    probability = np.full((1, SIZE, SIZE), 0.5, np.float32)
    probability[0, 0, 0] = np.nan
    masks = comparison.classify_models(table, {"low": probability, "high": probability})
    assert np.unique(masks["low"]).tolist() == [1, 255]
    assert np.unique(masks["high"]).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("options", "km2"),
    [
        ({}, 1e-4),
        ({"pixel": 30.0}, 9e-4),
        # A resolution in dataset.yaml makes metres of a grid without georeference; 1 is pixels.
        ({"crs": None}, 1e-4),
        ({"crs": None, "pixel": 1.0}, math.nan),
    ],
)
def test_the_grid_knows_the_size_of_a_pixel(options, km2):
    store = make_store(**options)
    _, grid = comparison.assemble(store.labels, store, everything(store))
    assert grid.pixel_area_km2 == pytest.approx(km2, nan_ok=True)


# ---- scores


def test_scores_of_a_perfect_and_of_a_half_right_map():
    store = make_store(areas=("one", "two"))
    positions = everything(store)
    half = store.labels.copy()
    half[:, : SIZE // 2] = 0  # the upper half of every patch is missed
    masks = {"whole": store.labels, "half": half}
    counts = comparison.count_blocks(masks, store, positions)
    scores = comparison.spatial_scores(models("whole", "half"), counts)
    assert len(scores) == 2 * 2 * 2
    labels = scores[scores["reference"] == "labels"].set_index(["model", "area"])
    assert (labels.loc["whole", ["iou", "iou_low", "iou_high", "f1"]] == 1).all(axis=None)
    assert (labels.loc["half", "iou"] == 0.5).all()
    assert (labels.loc["half", "precision"] == 1).all()
    # The truth is 15 of the 16 columns.
    truth = scores[scores["reference"] == "truth"].set_index(["model", "area"])
    assert (truth.loc["whole", "iou"] == 15 / 16).all()


def test_blocks_of_two_areas_have_names_of_their_own():
    store = make_store(areas=("one", "two"))
    counts = comparison.count_blocks({"a": store.labels}, store, everything(store), side_m=160.0)
    table = counts["labels"]["a"]
    assert list(table) == ["area", "date", "block", *metrics.COUNTS]
    assert table["block"].tolist() == ["one:00-00", "one:00-01", "two:00-00", "two:00-01"]
    # The left half of each area, 24 x 16 px, is glacier.
    assert table["tp"].tolist() == [24 * 16, 0] * 2
    assert counts["truth"]["a"]["fp"].tolist() == [24, 0] * 2


def test_counts_of_patches_know_their_place_and_add_up_to_those_of_the_blocks():
    store = make_store(4, 4, areas=("one", "two"), order=np.random.default_rng(0).permutation(32))
    masks = {"a": store.labels, "b": np.zeros_like(store.labels)}
    patches = comparison.count_patches(masks, store, everything(store), side_m=160.0)
    assert len(patches) == 2 * 2 * 32
    first = patches.query("model == 'a' and reference == 'labels' and area == 'two'")
    glacier = first[first["tp"] == SIZE**2]
    assert sorted(zip(glacier["row"], glacier["col"], strict=True)) == [
        (SIZE * row, SIZE * col) for row in range(4) for col in range(2)
    ]
    blocks = comparison.count_blocks(masks, store, everything(store), side_m=160.0)
    key = ["area", "block"]
    for (model, reference), own in patches.groupby(["model", "reference"]):
        known = blocks[reference][model]
        known = known.assign(block=known["block"].str.partition(":")[2])
        pd.testing.assert_frame_equal(
            own.groupby(key)[metrics.COUNTS].sum(), known.groupby(key)[metrics.COUNTS].sum()
        )


def test_every_network_is_compared_with_every_baseline():
    store = make_store(6, 4)
    worse, middling = store.labels.copy(), store.labels.copy()
    worse[:, : SIZE // 2] = 0
    middling[:, : SIZE // 4] = 0
    masks = {"a": worse, "b": worse.copy(), "good": store.labels, "same": worse, "mid": middling}
    table = models(*masks).assign(kind=["baseline"] * 2 + ["network"] * 3)
    counts = comparison.count_blocks(masks, store, everything(store), side_m=SIZE * PIXEL)
    pairs = comparison.against_baselines(table, counts)
    assert len(pairs) == 3 * 2 * 2
    assert pairs["against"].unique().tolist() == ["a", "b"]
    assert (pairs[pairs["model"] == "same"]["difference"] == 0).all()
    assert (
        pairs[(pairs["model"] == "mid") & (pairs["reference"] == "labels")]["low"] == 0.25
    ).all()
    assert comparison.clearly_better(pairs) == ["good", "mid"]
    # One interval that holds zero is enough to doubt.
    pairs.loc[pairs["model"].eq("mid").idxmax(), "verdict"] = "not distinguishable"
    assert comparison.clearly_better(pairs) == ["good"]


# ---- outlines, areas


def test_boundaries_lie_off_by_what_the_map_was_moved():
    store = make_store(areas=("one", "two"))
    moved = store.labels.copy()
    for area in ("one", "two"):
        here = store.select(area=area)
        whole, _ = comparison.assemble(store.labels[here], store, here)
        whole[:, 13:16] = 0  # the outline moves three pixels to the left, across a patch border
        moved[here] = comparison.cut(whole, store, here)
    table = comparison.boundary_table({"a": moved}, store, everything(store))
    assert table[["area", "reference"]].to_numpy().tolist() == [
        ["one", "labels"], ["two", "labels"], ["one", "truth"], ["two", "truth"],
    ]  # fmt: skip
    assert table["median_m"].tolist() == pytest.approx([30, 30, 20, 20])


def test_first_area():
    store = make_store(1, 2, areas=("one", "two"))
    assert comparison.first_area(store, np.array([3, 0, 2])).tolist() == [True, False, True]


# ---- the area as one map


@pytest.fixture
def judged(make_dataset):
    """A test area of 4 x 6 patches with a perfect map and one that misses the upper half."""
    data = open_dataset(make_dataset())
    store = build_patches(data, size=32, block_m=320)
    positions = store.select(split="test", date=DATE)
    labels = np.asarray(store.labels[positions])
    half = labels.copy()
    upper = store.index["row"].to_numpy()[positions] < 64
    half[upper] = 0
    masks = {"perfect": labels, "half": half}
    soft = {name: np.where(mask == 1, 0.9, 0.2).astype(np.float32) for name, mask in masks.items()}
    found = comparison.judge(data, store, positions, masks, soft)
    return data, store, positions, found, masks


def own_counts(judged):
    _, store, positions, found, masks = judged
    return found.own(comparison.count_blocks(masks, store, positions, side_m=320.0))


def test_the_area_is_put_together_on_its_own_grid(judged):
    data, _, _, found, _ = judged
    assert (found.area, found.date) == ("test", DATE)
    assert found.grid.matches(data.source("test", DATE).grid)
    expected = data.labels("test", DATE).read()
    np.testing.assert_array_equal(found.references["labels"], expected)
    assert list(found.references) == ["labels"]  # nobody knows the truth
    np.testing.assert_array_equal(found.maps["perfect"], expected)
    assert (found.maps["half"][:64] == 0).all()
    np.testing.assert_array_equal(found.maps["half"][64:], expected[64:])
    image = data.source("test", DATE).read()
    np.testing.assert_array_equal(found.image.reflectance, image.reflectance)
    assert found.image.valid.all()
    assert found.clouds is None
    assert len(found.glaciers.table) == 1


def test_nothing_is_mapped_where_there_is_no_image(make_dataset):
    data = open_dataset(make_dataset())
    # Patches of 40 px stick out of a frame of 128 x 192 px.
    store = build_patches(data, size=40, block_m=400, max_unknown=0.9)
    positions = store.select(split="test", date=DATE)
    soft = {"net": np.full((len(positions), 40, 40), 0.9, np.float32)}
    masks = {"net": np.ones((len(positions), 40, 40), np.uint8)}
    found = comparison.judge(data, store, positions, masks, soft)
    assert found.grid.shape == (160, 200)
    assert (found.maps["net"][:128, :192] == 1).all()
    assert (found.maps["net"][128:] == 255).all()
    assert np.isnan(found.probabilities["net"][:, 192:]).all()
    assert not np.isnan(found.probabilities["net"][:128, :192]).any()


def test_counts_of_the_area_are_by_reference_model_and_block(judged):
    counts = own_counts(judged)
    assert list(counts) == ["labels"]
    table = counts["labels"]["half"]
    assert len(table) == 4 * 6
    assert table["fp"].sum() == 0
    missed = (judged[3].references["labels"][:64] == 1).sum()
    assert table["fn"].sum() == missed


def test_blocks_follow_the_errors_of_the_worst_model(judged):
    # The perfect map has no error to correlate; the other's lie together in one half.
    side = comparison.block_size(judged[3])
    assert side.blocks >= 16
    assert side.side_m > 100


def test_a_temperature_learned_on_validation_is_tried_on_the_area(judged):
    found = judged[3]
    truth = found.references["labels"]
    generator = np.random.default_rng(0)
    honest = np.clip(generator.random(truth.shape), 0.02, 0.98).astype(np.float32)
    drawn = (generator.random(truth.shape) < honest).astype(np.uint8)
    found = fit_temperature(*histogram(apply_temperature(honest, 0.5), drawn))  # twice too sure
    mapped = apply_temperature(apply_temperature(honest, 0.5), found)
    table, histograms = comparison.calibrate({"net": found}, SimpleNamespace(
        area="a", date=DATE, references={"labels": drawn}, probabilities={"net": mapped}
    ))  # fmt: skip
    assert table["stage"].tolist() == ["before", "after"]
    assert table["temperature"].iloc[1] == pytest.approx(2, rel=0.05)
    assert table["ece"].iloc[1] < table["ece"].iloc[0] / 2
    assert set(histograms["net"]) == {"before", "after"}


def test_only_the_first_seed_has_outlines_measured():
    spatial = pd.DataFrame(
        {"model": "net", "area": "a", "reference": "labels", "seed": [0, 1], "iou": 0.5}
    )
    distances = pd.DataFrame(
        [{"model": "net", "area": "a", "reference": "labels", "median_m": 12.0, "p95_m": 90.0}]
    )
    table = comparison.with_boundaries(spatial, distances)
    assert table["boundary_median_m"].tolist()[0] == 12
    assert table["boundary_p95_m"].isna().tolist() == [False, True]


def test_test_patches_are_taken_at_the_nearest_date_and_found_on_ground_of_training():
    store = make_store(rows=2, cols=2, areas=("one", "two"))
    index = store.index
    index.loc[index["area"] == "two", "date"] = "2022-09"
    assert list(comparison.patches_to_test(store, "2023-08")) == [*range(8)]
    # The left column of "two" was seen in training, at another date.
    index.loc[index["area"] == "one", "split"] = "train"
    assert list(comparison.patches_to_test(store, "2023-08")) == [4, 5, 6, 7]
    assert comparison.areas_over_time(store, np.arange(4, 8)) == []
    index.loc[[0, 2], "geometry"] = index.geometry[[4, 6]].to_numpy()
    assert comparison.areas_over_time(store, np.arange(4, 8)) == ["two"]
    assert comparison.areas_over_time(store, np.array([5, 7])) == []  # beside it, touching
