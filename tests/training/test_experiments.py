"""Several models side by side: what is trained, the table of fits, the choice of the best."""

from __future__ import annotations

import pandas as pd
import pytest
from stubs import Store

from glacier_utils.errors import GlacierError
from glacier_utils.models import registry
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.training import fitting
from glacier_utils.training.settings import Settings


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
        calls.append((name, folder.name, settings.seed, settings.epochs, list(dates)))
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
    settings = Settings(epochs=7)
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
    settings = Settings(epochs=7)
    store, folder = None, tmp_path
    found = fitting.fit_again(
        "unet", "-both", store, folder, dates=dates, others=others, settings=settings
    )
    found |= fitting.fit_again(
        "unet", "-other", store, folder, dates=dates, others=others[:1], settings=settings
    )
    assert list(found) == ["unet-both", "unet-other"]
    assert fits == [("unet", "unet-both", 0, 3, others), ("unet", "unet-other", 0, 7, others[:1])]
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
    assert fitting.best_network(summary) == "threshold"
    chosen = fitting.by_dates(summary, "threshold")
    assert list(chosen) == ["threshold, 2023-08", "threshold, 2023-07 + 2023-08"]
    assert list(fitting.by_dates(summary.iloc[:1], "threshold")) == ["threshold, 2023-08"]


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
    assert row["epochs"] == 1
    assert row["parameters"] == 3
    path = fitting.checkpoint(summary, "threshold")
    assert path == project / "models/threshold/checkpoint.pt"
    assert load_checkpoint(path).threshold == row["threshold"]
    # The later notebooks read the table from a file.
    summary.to_csv(project / "models.csv", index=False)
    assert fitting.checkpoint(pd.read_csv(project / "models.csv"), "threshold") == path


def test_a_model_that_was_not_trained_is_an_error(project):
    known = table(*MODELS).assign(checkpoint="a.pt")
    with pytest.raises(GlacierError, match="'unets': not trained in this run"):
        fitting.checkpoint(known, "unets")


def test_overview_describes_each_model():
    names = registry.names()
    found = fitting.overview(names)
    assert found["model"].tolist() == names
    assert found["what it is"].str.len().gt(10).all()


def test_best_models_are_chosen_among_the_first_seed():
    known = table(*MODELS)
    assert fitting.best_network(known) == "segformer"
    assert fitting.best_baseline(known) == "random_forest"


def test_best_models_where_a_kind_is_missing():
    known = table(*MODELS)
    assert fitting.best_network(known[known["kind"] == "baseline"]) == "random_forest"
    assert fitting.best_baseline(known[known["kind"] == "network"]) == "unet"


def test_an_undefined_score_is_never_the_best():
    known = table(("unet", "network", 0, float("nan")), ("segformer", "network", 0, 0.1))
    assert fitting.best_network(known) == "segformer"
    assert fitting.best_network(known.iloc[:1]) == "unet"
