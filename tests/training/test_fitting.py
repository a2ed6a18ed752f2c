"""Fits: what they leave behind, when they are reused; several models and the table of them."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback
from stubs import Store

from glacier_utils.errors import GlacierError
from glacier_utils.models import registry
from glacier_utils.models.checkpoint import Segmenter, load_checkpoint
from glacier_utils.prediction.mapper import predict_patches
from glacier_utils.training import fitting, module, selection
from glacier_utils.training.fitting import fit, sample_pixels
from glacier_utils.training.settings import Settings

QUICK = Settings(steps=6, batch_size=3, learning_rate=1e-2, threads=1)
SMALL = {"filters": [4, 8]}


def quick_fit(folder, store=None, **changes):
    arguments = {"arguments": SMALL, "settings": QUICK, "progress": False} | changes
    return fit("glaciernet", store or Store(), folder, **arguments)


# ---- fit


def test_a_network_learns_and_leaves_all_that_prediction_needs(tmp_path, capfd):
    store = Store()
    result = quick_fit(tmp_path / "fits" / "glaciernet", store, settings=Settings(
        steps=40, batch_size=3, learning_rate=2e-2, threads=1
    ))  # fmt: skip
    assert not result.reused
    assert list(result.history.columns) == list(fitting.HISTORY)
    assert result.history["step"].tolist() == list(range(2, 41, 2))
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


def test_the_best_state_is_kept(tmp_path):
    result = quick_fit(tmp_path / "fit", settings=Settings(
        steps=20, batch_size=3, learning_rate=0.5, threads=1, augmentation="none",
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


def test_callbacks_see_each_validation_of_a_training(tmp_path):
    class Scores(Callback):
        def __init__(self):
            self.found = []

        def on_train_epoch_end(self, trainer, task):
            self.found.append(float(trainer.callback_metrics["validation_iou"]))

    scores = Scores()
    result = quick_fit(tmp_path / "fit", callbacks=[scores])
    assert scores.found == pytest.approx(result.history["validation_iou"].tolist(), abs=1e-5)
    assert quick_fit(tmp_path / "fit", callbacks=[scores]).reused
    assert len(scores.found) == len(result.history)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, precision):
    weights = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)  # the caller's own seed must not matter
        chosen = Settings(steps=4, batch_size=3, seed=seed, threads=1, precision=precision)
        result = quick_fit(tmp_path / str(number), settings=chosen)
        weights.append(load_checkpoint(result.checkpoint).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


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
        {"settings": Settings(steps=4, batch_size=3, threads=1)},
        {"store": Store(key="other")},
        {"arguments": {"filters": [4, 4]}},
        {"dates": "2023-08"},
    ):
        assert not quick_fit(folder, **change).reused


@pytest.mark.parametrize("name", ["fit.json", "history.csv", "checkpoint.pt"])
def test_a_fit_whose_files_are_broken_is_made_again(tmp_path, name):
    whole = quick_fit(tmp_path / "fit")
    path = tmp_path / "fit" / name
    content = path.read_bytes()
    for broken in (b"", b"[]", content[: len(content) // 2]):
        path.write_bytes(broken)
        if name == "history.csv" and broken != b"":
            continue  # any text is a table
        again = quick_fit(tmp_path / "fit")
        assert not again.reused
        assert again.validation == whole.validation
        assert quick_fit(tmp_path / "fit").reused


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
    assert result.history["step"].tolist() == [0]
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


def test_early_stopping(tmp_path, monkeypatch):
    # Steps too small for anything to gain, from a state that counts.
    monkeypatch.setattr(module, "least_iou", lambda *_: 0.0)
    still = Settings(steps=30, patience=4, threads=1, learning_rate=1e-12, precision="float32")
    result = quick_fit(tmp_path / "fit", settings=still)
    assert len(result.history) == 3


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("value", [0, 1, 255])
def test_without_both_classes_in_validation_all_train_to_the_last_step(
    tmp_path, caplog, value, average
):
    store = Store()
    validates = store.select(split="validation")
    store.labels[validates] = value
    store.index.loc[validates, "glacier"] = {0: 0.0, 1: 1.0, 255: np.nan}[value]
    settings = Settings(
        steps=4, patience=1, batch_size=3, threads=1, precision="float32", average=average
    )
    result = quick_fit(tmp_path / "fit", store, settings=settings)
    assert len(result.history) == 4
    assert result.history["validation_iou"].isna().all()
    assert result.validation["iou"] is None
    assert result.validation["patches"] == 0
    assert result.validation["train_patches"] == len(store.select(split=["train", "validation"]))
    kept = load_checkpoint(result.checkpoint)
    assert (kept.threshold, kept.temperature) == (0.5, 1.0)
    assert "validation would lack a class" in caplog.text
    content = json.loads((result.checkpoint.parent / "fit.json").read_text())
    assert content["warning"] in caplog.text
    table = fitting.summary({"a": result, "b": result})
    assert selection.best_network(table) == "a"
    # The last step and not the first: fewer steps give other weights.
    short = quick_fit(tmp_path / "short", store, settings=settings.changed(steps=1, average=0.0))
    weights = [one.state_dict() for one in (kept, load_checkpoint(short.checkpoint))]
    assert not all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("windows", [1, 3])
def test_one_patch_trains(tmp_path, windows):
    settings = QUICK.changed(batch_size=windows)
    result = quick_fit(tmp_path / "fit", Store(count=1), settings=settings)
    assert result.validation["train_patches"] == 1
    assert len(result.history) == QUICK.steps


ONLY_TESTS = Store()
ONLY_TESTS.index["split"] = "test"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dates": ["2020-01"]}, "no date 2020-01; it has 2023-07, 2023-08"),
        ({"store": ONLY_TESTS}, "no training patches of 2023-07, 2023-08; check dates"),
    ],
)
def test_user_mistakes(tmp_path, changes, message):
    with pytest.raises(GlacierError, match=message):
        quick_fit(tmp_path / "fit", **changes)
    assert not list(tmp_path.iterdir())


def test_pixels_are_sampled_from_known_ones_only():
    store = Store()
    segmenter = Segmenter("random_forest", store.bands, [0] * 4, [1] * 4)
    train = store.select(split="train")
    pixels, labels = sample_pixels(segmenter, store, train, 600, seed=0)
    assert pixels.shape == (600, 4)
    assert set(labels) == {0, 1}
    few, _ = sample_pixels(segmenter, store, train, 10**6, seed=0)
    assert len(few) == (store.labels[store.select(split="train")] != 255).sum()


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


# ---- several models


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder, which the relative paths of checkpoints start from."""
    monkeypatch.setenv("GLACIER_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def fits(monkeypatch):
    """Record what would be trained."""
    monkeypatch.setattr(registry, "describe", lambda name: name)
    calls = []

    def fit(name, store, folder, *, dates, settings, progress):
        calls.append((name, folder.name, settings.seed, settings.steps, list(dates)))
        return folder.name

    monkeypatch.setattr(fitting, "fit", fit)
    return calls


def table(*rows: tuple, dates: str = "2023-08") -> pd.DataFrame:
    known = pd.DataFrame(rows, columns=["model", "kind", "seed", "validation_iou"])
    return known.assign(dates=dates)


MODELS = (
    ("threshold", "baseline", 0, 0.5),
    ("random_forest", "baseline", 0, 0.6),
    ("random_forest-seed1", "baseline", 1, 0.65),
    ("unet", "network", 0, 0.7),
    ("unet-seed1", "network", 1, 0.9),
    ("segformer", "network", 0, 0.8),
)


def test_networks_train_once_a_seed_and_the_threshold_once(fits, tmp_path):
    settings = Settings(steps=7)
    found = fitting.fit_all(
        ["threshold", "unet-resnet18"], [3, 4], None, tmp_path, dates=["2023-08"], settings=settings
    )
    assert list(found) == ["threshold", "unet-resnet18", "unet-resnet18-seed4"]
    assert fits == [
        ("threshold", "threshold", 3, 7, ["2023-08"]),
        ("unet-resnet18", "unet-resnet18", 3, 7, ["2023-08"]),
        ("unet-resnet18", "unet-resnet18-seed4", 4, 7, ["2023-08"]),
    ]


@pytest.mark.parametrize(("names", "seeds"), [([], [0]), (["threshold"], [])])
def test_no_model_or_no_seed_is_an_error(names, seeds, tmp_path):
    with pytest.raises(GlacierError, match="name at least one of each"):
        fitting.fit_all(names, seeds, None, tmp_path, dates=["2023-08"])


def test_an_unknown_name_is_noticed_before_anything_trains(fits, tmp_path, monkeypatch):
    def describe(name):
        if name != "threshold":
            raise GlacierError(f"model {name!r}: not known")

    monkeypatch.setattr(registry, "describe", describe)
    with pytest.raises(GlacierError, match="'treshold': not known"):
        fitting.fit_all(["threshold", "treshold"], [0], None, tmp_path, dates=["2023-08"])
    assert fits == []


def test_a_second_training_takes_as_many_steps_on_more_dates(fits, tmp_path):
    dates, others = ["2023-08"], ["2023-07", "2023-08"]
    settings = Settings(steps=7)
    store, folder = None, tmp_path
    found = fitting.fit_again(
        "unet", "-both", store, folder, dates=dates, others=others, settings=settings
    )
    found |= fitting.fit_again(
        "unet", "-other", store, folder, dates=dates, others=others[:1], settings=settings
    )
    assert list(found) == ["unet-both", "unet-other"]
    assert fits == [("unet", "unet-both", 0, 7, others), ("unet", "unet-other", 0, 7, others[:1])]
    for same in (others[::-1], []):
        assert not fitting.fit_again(
            "unet", "-both", store, folder, dates=others, others=same, settings=settings
        )
    assert len(fits) == 2


def test_a_model_of_both_dates_has_a_name_of_its_own_and_is_not_compared(project):
    dates = ["2023-08"]
    found = fitting.fit_all(
        ["threshold"], [0], Store(), project / "models", dates=dates, progress=False
    )
    other = dict(zip(["threshold-both"], found.values(), strict=True))
    summary = fitting.summary(found | other)
    assert summary["architecture"].tolist() == ["threshold", "threshold-both"]
    assert summary["dates"].tolist() == ["2023-08", "2023-08"]
    summary.loc[1, ["dates", "validation_iou"]] = ["2023-07 2023-08", 1.1]
    assert selection.best_network(summary) == "threshold"
    chosen = selection.by_dates(summary, "threshold")
    assert list(chosen) == ["threshold, 2023-08", "threshold, 2023-07 + 2023-08"]
    assert list(selection.by_dates(summary.iloc[:1], "threshold")) == ["threshold, 2023-08"]


def test_summary_leads_back_to_the_checkpoint(project):
    found = fitting.fit_all(
        ["threshold"], [0], Store(), project / "models", dates=["2023-08"], progress=False
    )
    summary = fitting.summary(found)
    row = summary.iloc[0]
    assert (row["model"], row["architecture"], row["kind"], row["seed"]) == (
        "threshold", "threshold", "baseline", 0,
    )  # fmt: skip
    assert row["checkpoint"] == "models/threshold/checkpoint.pt"
    assert row["validation_iou"] > 0.9
    assert row["steps"] == 0
    assert row["parameters"] == 3
    path = selection.checkpoint(summary, "threshold")
    assert path == project / "models/threshold/checkpoint.pt"
    assert load_checkpoint(path).threshold == row["threshold"]
    # The later notebooks read the table from a file.
    summary.to_csv(project / "models.csv", index=False)
    assert selection.checkpoint(pd.read_csv(project / "models.csv"), "threshold") == path


def test_a_model_that_was_not_trained_is_an_error(project):
    known = table(*MODELS).assign(checkpoint="a.pt")
    with pytest.raises(GlacierError, match="'unets': not trained in this run"):
        selection.checkpoint(known, "unets")


def test_overview_describes_each_model():
    names = registry.names()
    found = fitting.overview(names)
    assert found["model"].tolist() == names
    assert found["what it is"].str.len().gt(10).all()


def test_best_models_are_chosen_among_the_first_seed():
    known = table(*MODELS)
    assert selection.best_network(known) == "segformer"
    assert selection.best_baseline(known) == "random_forest"


def test_best_models_where_a_kind_is_missing():
    known = table(*MODELS)
    assert selection.best_network(known[known["kind"] == "baseline"]) == "random_forest"
    assert selection.best_baseline(known[known["kind"] == "network"]) == "unet"


def test_an_undefined_score_is_never_the_best():
    known = table(("unet", "network", 0, float("nan")), ("segformer", "network", 0, 0.1))
    assert selection.best_network(known) == "segformer"
    assert selection.best_network(known.iloc[:1]) == "unet"


def test_no_training_on_synthetic_data_starts_from_synthetic_landscapes(tmp_path):
    store = Store()
    store.parameters = {**store.parameters, "synthetic": True}
    with pytest.raises(GlacierError, match="scores would flatter; choose weights none"):
        quick_fit(tmp_path / "fit", store, settings=Settings(weights="builtin"))
    assert not (tmp_path / "fit").exists()
