"""The study of landscapes: statistics of images whose answers are known, and its tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from stubs import Store

from glacier_utils.models import Segmenter, load_checkpoint
from glacier_utils.training import Settings, fit
from studies.landscapes import carries_over, realism, shape_pays, varied


def noise(slope: float, size: int = 240) -> np.ndarray:
    """A field whose power falls with the wave number to a given power."""
    generator = np.random.default_rng(0)
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij"))
    waves[0, 0] = 1
    spectrum = np.fft.rfft2(generator.standard_normal((size, size))) * waves ** (slope / 2)
    return np.fft.irfft2(spectrum, (size, size))


@pytest.mark.parametrize("slope", [0, -1.5, -3])
def test_the_slope_of_a_power_spectrum_is_found(slope):
    field = noise(slope)
    found, windows = realism.spectrum_slope(field, np.ones(field.shape, bool))
    assert found == pytest.approx(slope, abs=0.25)
    assert windows == 39**2
    again, _ = realism.spectrum_slope(1000 + 5 * field, np.ones(field.shape, bool))
    assert again == pytest.approx(found, abs=1e-6)


def test_only_windows_of_one_kind_count():
    field, mask = noise(-2), np.zeros((240, 240), bool)
    mask[:, :60] = True
    field[~mask] = 1e6
    found, windows = realism.spectrum_slope(field, mask)
    assert found == pytest.approx(-2, abs=0.4)
    assert windows == 39 * 9
    assert np.isnan(realism.spectrum_slope(field, ~mask & mask)[0])


def test_contrast_of_a_checkerboard():
    board = (np.indices((20, 20)).sum(axis=0) % 2).astype(float)
    everywhere = np.ones(board.shape, bool)
    assert realism.contrast(0.3 * board, everywhere)[0] == pytest.approx(0.3, rel=1e-3)
    ramp = np.tile(np.arange(20.0), (20, 1))
    assert realism.contrast(ramp, everywhere) == pytest.approx((0.5, 2 * 19 * 20))
    everywhere[:, 10:] = False
    assert realism.contrast(board, everywhere)[1] == 20 * 9 + 19 * 10


def test_gradients_are_those_of_a_slope_over_the_mean():
    ramp = np.tile(np.arange(1.0, 22.0), (21, 1))
    assert realism.gradients(ramp, np.ones(ramp.shape, bool)) == pytest.approx(
        (1 / 11, 1 / 11, 361)
    )


def view(reflectance: tuple[float, ...], shape: tuple[int, int] = (40, 40)) -> realism.View:
    values = np.tile(np.array(reflectance, np.float32)[:, None, None], (1, *shape))
    return realism.View(values, np.ones(shape, bool), np.zeros(shape, bool))


def test_kinds_of_ground_and_dark_shadow():
    image = view((0.16, 0.15, 0.12, 0.17))  # the median rock
    image.reflectance[:, :10] = np.array([0.34, 0.36, 0.35, 0.24])[:, None, None]  # ice
    image.reflectance[:, 10:20] = np.array([0.83, 0.83, 0.81, 0.69])[:, None, None]  # snow
    image.reflectance[:, 20:25] = np.array([0.02, 0.02, 0.03, 0.02])[:, None, None]  # shadow
    image.water[35:] = True
    found = {name: mask.sum() // 40 for name, mask in image.kinds().items()}
    assert found == {"ice": 10, "snow": 10, "land": 14, "water": 4}
    assert realism.dark_shadow(image) == pytest.approx(5 / 34)


def test_coarser_pixels_are_means_of_valid_ones():
    image = view((0.1, 0.2, 0.3, 0.4), (7, 9))
    image.reflectance[:, :3, :3] *= 2
    image.valid[4, 4] = False
    image.water[:2, :3] = True
    coarse = realism.coarsen(image, 3)
    assert coarse.reflectance[:, 0, 0] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert coarse.valid.tolist() == [[True, True, True], [True, False, True]]
    assert coarse.water.tolist() == [[True, False, False], [False, False, False]]


def test_ratios_off_by_more_than_a_third_are_marked():
    table = pd.DataFrame({
        "comparison": "30 m", "kind": "ice", "band": "nir", "statistic": ["contrast"] * 2,
        "area": ["train", "test"], "real": 0.05, "sample": [0.05, 0.1], "ratio": [1.0, 2.0],
        "off": [False, True],
    })  # fmt: skip
    assert realism.markdown(table).splitlines()[-1] == (
        "| 30 m | ice | nir | contrast | 0.050 | 1.00 | **2.00** |"
    )


def test_errors_are_split_by_surface():
    truth = np.array([[1, 1, 1, 0, 0, 0, 0, 0]], np.uint8)
    mask = np.array([[1, 0, 0, 1, 0, 0, 0, 255]], np.uint8)
    surface = np.array([[7, 9, 9, 10, 10, 1, 1, 1]], np.uint8)
    rows = {row.pop("surface"): row for row in shape_pays.by_surface(mask, truth, surface)}
    assert rows["debris on ice"] == {"missed": 2, "false": 0, "of_errors": 2 / 3, "wrong": 1}
    assert rows["seasonal snow"] == {"missed": 0, "false": 1, "of_errors": 1 / 3, "wrong": 0.5}
    assert rows["rock"]["wrong"] == rows["bare ice"]["wrong"] == 0


def test_gaps_are_means_over_seeds_of_training(tmp_path):
    scores = {"random_forest": [0.6], "gradient_boosting": [0.7], "unet-resnet18": [0.8, 0.9]}
    rows = [
        {"landscape": landscape, "model": model, "training_seed": seed, "truth_iou": value}
        for landscape in (11, 12)
        for model, values in scores.items()
        for seed, value in enumerate(values)
    ]
    table = shape_pays.gaps(pd.DataFrame(rows), ["unet-resnet18"])
    assert list(table.index) == ["11", "12", "mean"]
    assert table.loc["mean", "boosting - forest"] == pytest.approx(0.1)
    assert table.loc["11", "unet-resnet18 - boosting"] == pytest.approx(0.15)


def test_a_row_is_there_once_it_is_added(tmp_path):
    results = shape_pays.Results(tmp_path / "tables")
    key = dict.fromkeys(shape_pays.KEYS, 1) | {"model": "threshold", "generator": "00112233"}
    assert not results.has(key)
    results.add("scores", [key | {"truth_iou": 0.5}])
    results.add("checkpoints", [])
    again = shape_pays.Results(tmp_path / "tables")
    assert again.has(key)
    assert not again.has(key | {"training_seed": 2})


def test_the_test_area_is_scored_four_times_on_the_way(tmp_path):
    store = Store()
    store.truth = store.labels
    watch = shape_pays.Watch(store, np.arange(len(store.labels)))
    settings = Settings(steps=20, batch_size=3, threads=1)
    result = fit(
        "glaciernet", store, tmp_path / "fit", arguments={"filters": [4, 8]}, settings=settings,
        progress=False, callbacks=[watch],
    )  # fmt: skip
    assert [row["step"] for row in watch.rows] == [5, 10, 15, 20]
    last = result.history.iloc[-1]
    assert watch.rows[-1]["validation_iou"] == pytest.approx(last["validation_iou"], abs=1e-5)
    assert watch.rows[-1]["truth_iou"] == watch.rows[-1]["labels_iou"]


@pytest.mark.slow
def test_varied_landscapes_come_at_every_resolution_and_know_their_ice(tmp_path):
    store = varied.make(tmp_path / "varied", count=1, seed=1, patches=6)
    names = {f"00_{when}_{10 * factor}m" for when in range(3) for factor in varied.FACTORS}
    assert set(store.index["area"]) == names
    assert store.parameters["synthetic"]
    labels = np.asarray(store.labels)
    assert set(np.unique(labels)) <= {0, 1, 255}
    red = np.asarray(store.images)[:, 0]
    assert np.median(red[labels == 1]) > 2 * np.median(red[labels == 0])


def test_cloud_hides_what_lies_below_where_it_is_opaque():
    rng = np.random.default_rng(0)
    image = np.full((4, 128, 128), 0.05, np.float32)
    seen, opaque = varied.under_cloud(image, rng)
    assert seen.shape == image.shape
    assert opaque.min() == 0
    assert 0.3 < opaque.max() <= 1
    clear = opaque == 0
    assert (seen[:, clear] <= image[:, clear] * (1 + 1e-6)).all()  # as it is, or in shadow
    thick = opaque > 0.4
    assert (seen[:, thick] > image[:, thick]).all()


def test_small_weights_map_alike(tmp_path):
    torch.manual_seed(0)
    network = Segmenter("glaciernet", ["red", "nir"], [0.2, 0.2], [0.1, 0.1]).eval()
    images = torch.rand(1, 2, 64, 64)
    with torch.inference_mode():
        before = network(images)
        carries_over.save_small(network, tmp_path / "small.pt")
        after = load_checkpoint(tmp_path / "small.pt")(images)
    np.testing.assert_allclose(after, before, atol=0.02 * float(before.abs().max()))
    assert (tmp_path / "small.pt").stat().st_size < 3e6
