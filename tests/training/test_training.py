import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import Store

from glacier_utils.errors import GlacierError
from glacier_utils.models.checkpoint import Segmenter, load_checkpoint
from glacier_utils.prediction.acceleration import resolve
from glacier_utils.prediction.mapper import predict_patches
from glacier_utils.training import fitting
from glacier_utils.training.fitting import choose_threshold, fit, sample_pixels
from glacier_utils.training.module import Batches, Patches
from glacier_utils.training.settings import Settings

QUICK = Settings(epochs=3, batch_size=3, learning_rate=1e-2, threads=1)
SMALL = {"filters": [4, 8]}


def quick_fit(folder, store=None, **changes):
    arguments = {"arguments": SMALL, "settings": QUICK, "progress": False} | changes
    return fit("glaciernet", store or Store(), folder, **arguments)


# ---- batches


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(2, 20), st.integers(0, 5))
def test_batches_hold_every_patch_once_and_never_one_alone(count, batch_size, epoch):
    batches = Batches(np.arange(count), batch_size, seed=1, epoch=lambda: epoch)
    parts = list(batches)
    assert len(parts) == len(batches)
    assert sorted(np.concatenate(parts)) == list(range(count))
    assert min(map(len, parts)) >= 2
    assert max(map(len, parts)) <= batch_size + 1
    assert all(np.array_equal(a, b) for a, b in zip(parts, batches, strict=True))


def test_the_order_changes_from_epoch_to_epoch():
    first, second = (
        np.concatenate(list(Batches(np.arange(40), 8, seed=1, epoch=lambda epoch=epoch: epoch)))
        for epoch in (0, 1)
    )
    assert not np.array_equal(first, second)


@settings(deadline=None)
@given(st.integers(4, 60), st.integers(2, 20), st.integers(2, 4), st.integers(0, 5))
def test_several_processes_share_every_batch(count, batch_size, world, epoch):
    shares = [
        list(Batches(np.arange(count), batch_size, 1, rank=rank, world=world, epoch=lambda: epoch))
        for rank in range(world)
    ]
    alone = list(Batches(np.arange(count), batch_size, 1, epoch=lambda: epoch))
    assert len({len(share) for share in shares}) == 1 or count < world
    joined = [np.sort(np.concatenate(parts)) for parts in zip(*shares, strict=False)]
    assert sorted(np.concatenate(joined)) == list(range(count))
    if len(joined) == len(alone):
        assert all(np.array_equal(one, two) for one, two in zip(joined, alone, strict=True))


def test_patches_are_drawn_by_their_weights():
    weights = np.array([0.0, 1.0, 3.0, 0.0])
    drawn = np.concatenate([
        np.concatenate(list(Batches(np.array([7, 5, 3, 1]), 2, 0, weights=weights,
                                    epoch=lambda epoch=epoch: epoch)))
        for epoch in range(400)
    ])  # fmt: skip
    assert set(drawn) == {5, 3}
    assert (drawn == 3).mean() == pytest.approx(0.75, abs=0.04)


# ---- fit


def test_a_network_learns_and_leaves_all_that_prediction_needs(tmp_path, capfd):
    store = Store()
    result = quick_fit(tmp_path / "fits" / "glaciernet", store, settings=Settings(
        epochs=12, batch_size=3, learning_rate=2e-2, threads=1
    ))  # fmt: skip
    assert not result.reused
    assert list(result.history.columns) == list(fitting.HISTORY)
    assert result.history["epoch"].tolist() == list(range(1, 13))
    assert result.history["train_loss"].iloc[-1] < result.history["train_loss"].iloc[0]
    assert result.validation["iou"] > 0.8
    files = sorted(path.name for path in result.checkpoint.parent.iterdir())
    assert files == ["checkpoint.pt", "fit.json", "history.csv"]
    assert [path.name for path in (tmp_path / "fits").iterdir()] == ["glaciernet"]
    segmenter = load_checkpoint(result.checkpoint)
    assert segmenter.bands == store.bands
    assert segmenter.provenance["store"] == "stub"
    assert segmenter.provenance["patch_px"] == 32  # over which means of the image are taken
    assert segmenter.provenance["validation"]["iou"] == result.validation["iou"]
    np.testing.assert_allclose(segmenter.mean.flatten(), store.statistics["mean"], rtol=1e-6)
    assert json.loads((result.checkpoint.parent / "fit.json").read_text())["seconds"] > 0
    assert capfd.readouterr() == ("", "")  # neither Lightning's advice nor a bar


def test_the_best_epoch_is_kept(tmp_path):
    result = quick_fit(tmp_path / "fit", settings=Settings(
        epochs=8, batch_size=3, learning_rate=0.5, threads=1, augmentation="none",
        precision="float32",
    ))  # fmt: skip
    store = Store()
    positions = store.select(split="validation")
    labels = store.labels[positions]
    predicted = predict_patches(
        load_checkpoint(result.checkpoint), store.images[positions], precision="float32"
    )
    hits = ((predicted > 0.5) & (labels == 1)).sum()
    iou = hits / (((predicted > 0.5) & (labels != 255)) | (labels == 1)).sum()
    assert iou == pytest.approx(result.history["validation_iou"].max(), abs=2e-3)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, precision):
    weights = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)  # the caller's own seed must not matter
        chosen = Settings(epochs=2, batch_size=3, seed=seed, threads=1, precision=precision)
        result = quick_fit(tmp_path / str(number), settings=chosen)
        weights.append(load_checkpoint(result.checkpoint).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_crops_grow_to_whole_patches_and_validation_sees_these_alone(tmp_path, monkeypatch):
    from glacier_utils.models import losses
    from glacier_utils.training import module

    sides = {"train": [], "validation": []}
    train, validate = losses.Loss.__call__, losses.bce_dice
    monkeypatch.setattr(
        losses.Loss, "__call__",
        lambda this, logits, labels: sides["train"].append(labels.shape[-1])
        or train(this, logits, labels),
    )  # fmt: skip
    monkeypatch.setattr(
        module, "bce_dice",
        lambda logits, labels: sides["validation"].append(labels.shape[-1])
        or validate(logits, labels),
    )  # fmt: skip
    chosen = Settings(epochs=4, batch_size=100, threads=1, smallest_crop=32)
    quick_fit(tmp_path / "fit", Store(size=96), settings=chosen)
    assert sides["train"] == [32, 32, 64, 96]
    assert set(sides["validation"]) == {96}


def test_the_callers_random_numbers_and_threads_are_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    quick_fit(tmp_path / "fit")
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_a_finished_fit_is_reused_until_something_changes(tmp_path):
    folder = tmp_path / "fit"
    first = quick_fit(folder)
    changed = folder / "checkpoint.pt"
    stamp = changed.stat().st_mtime_ns
    again = quick_fit(folder)
    assert again.reused
    assert changed.stat().st_mtime_ns == stamp
    assert again.validation == first.validation
    assert again.history.equals(first.history)
    for change in (
        {"settings": Settings(epochs=2, batch_size=3, threads=1)},
        {"store": Store(key="other")},
        {"arguments": {"filters": [4, 4]}},
        {"dates": "2023-08"},
    ):
        assert not quick_fit(folder, **change).reused


def test_a_failed_fit_leaves_the_old_one_as_it_was(tmp_path):
    folder = tmp_path / "fit"
    quick_fit(folder)
    before = (folder / "fit.json").read_bytes()
    broken = Store(key="broken")
    broken.images = broken.images[:2]
    with pytest.raises(IndexError):
        quick_fit(folder, broken)
    assert (folder / "fit.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["fit"]


@pytest.mark.parametrize("name", ["threshold", "random_forest", "gradient_boosting"])
def test_pixel_models_go_the_same_way(tmp_path, name):
    result = fit(name, Store(), tmp_path / name, progress=False)
    assert result.validation["iou"] > 0.95
    assert result.history["epoch"].tolist() == [1]
    assert result.parameters > 0
    assert fit(name, Store(), tmp_path / name, progress=False).reused
    again = fit(name, Store(), tmp_path / "again", progress=False)
    states = [load_checkpoint(one.checkpoint).state_dict() for one in (result, again)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_only_train_and_validation_patches_of_the_dates_matter(tmp_path):
    changed = Store()
    out = np.setdiff1d(np.arange(12), changed.select(split=["train", "validation"], date="2023-08"))
    changed.images[out] = np.nan
    changed.labels[out] = 1 - changed.labels[out]
    weights = [
        load_checkpoint(
            quick_fit(tmp_path / str(number), store, dates=["2023-08"]).checkpoint
        ).state_dict()
        for number, store in enumerate((Store(), changed))
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_early_stopping(tmp_path):
    store = Store()
    store.labels[:] = 255  # nothing to learn: the IoU stays at 0
    result = quick_fit(tmp_path / "fit", store, settings=Settings(epochs=30, patience=2, threads=1))
    assert len(result.history) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dates": ["2020-01"]}, "no date 2020-01; it has 2023-07, 2023-08"),
        ({"store": Store(count=1)}, "1 train patches"),
        ({"store": Store(count=2)}, "0 validation patches"),
    ],
)
def test_user_mistakes(tmp_path, changes, message):
    with pytest.raises(GlacierError, match=message):
        quick_fit(tmp_path / "fit", **changes)
    assert not list(tmp_path.iterdir())


def test_settings_are_checked():
    with pytest.raises(GlacierError, match="epochs is 0"):
        Settings(epochs=0)
    with pytest.raises(GlacierError, match="precision 'half'"):
        Settings(precision="half")
    assert resolve("auto") in ("bf16", "float32")


def test_pixels_are_sampled_from_known_ones_only():
    store = Store()
    segmenter = Segmenter("random_forest", store.bands, [0] * 4, [1] * 4)
    train = store.select(split="train")
    pixels, labels = sample_pixels(segmenter, Patches(store), train, 600, seed=0)
    assert pixels.shape == (600, 4)
    assert set(labels) == {0, 1}
    few, _ = sample_pixels(segmenter, Patches(store), train, 10**6, seed=0)
    assert len(few) == (store.labels[store.select(split="train")] != 255).sum()


def test_threshold_moves_only_for_a_clear_gain():
    label = np.repeat(np.uint8([0, 1]), 100).reshape(1, 10, 20)
    good = np.where(label == 1, 0.9, 0.1)
    assert choose_threshold(good, label) == 0.5
    low = np.where(label == 1, 0.34, 0.1)
    assert choose_threshold(low, label) in (0.15, 0.2, 0.25, 0.3)
    assert choose_threshold(good, np.full_like(label, 255)) == 0.5


def test_prediction_does_not_import_lightning():
    code = "import sys, glacier_utils.prediction, glacier_utils.training as t; "
    code += "print('lightning' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True
    )
    assert run.stdout.strip() == "False"


def test_a_folder_that_is_no_fit_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("all I have")
    with pytest.raises(GlacierError, match="holds something else than a fit"):
        quick_fit(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "all I have"
    (tmp_path / "file").touch()
    with pytest.raises(GlacierError, match="is a file"):
        quick_fit(tmp_path / "file")


def test_a_neighbours_training_is_left_alone(tmp_path):
    other = tmp_path / ".fit.2.0123456789ab.partial"
    other.mkdir()
    quick_fit(tmp_path / "fit")
    assert other.is_dir()


def test_sampling_without_weights_is_told(tmp_path):
    store = Store()
    store.index["weight"] = 0.0
    with pytest.raises(GlacierError, match="balanced: the training patches have no weights"):
        quick_fit(tmp_path / "fit", store, settings=Settings(epochs=1, threads=1, balanced=True))


def test_a_network_of_outlines_refuses_to_leave_them_out(tmp_path):
    with pytest.raises(GlacierError, match="hedunet learns the outline itself"):
        fit("hedunet", Store(), tmp_path / "fit", settings=Settings(noise="ignore_band"),
            progress=False)  # fmt: skip
