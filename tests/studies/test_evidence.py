"""The study: how trials are run, compared and read."""

import pandas as pd
import pytest

from glacier_utils.errors import GlacierError
from glacier_utils.training.settings import Settings
from studies import evidence, trials
from studies.__main__ import main

QUICK = Settings(steps=6, batch_size=3, learning_rate=1e-2, threads=1)


def counts(hits: dict[str, list[int]], *, number: int = 0):
    """Counts of three blocks: tp as told, and misses that make up 100."""
    rows = [
        {"trial": trial, "reference": "truth", "block": f"b{block}", "tp": tp, "fp": 0,
         "fn": 100 - tp, "tn": 100, "seconds": 1.0 + number, "parameters": 5}
        for trial, values in hits.items()
        for block, tp in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_table_compares_with_the_base_on_the_same_blocks():
    runs = {
        str(number): counts(
            {trials.BASE: [50, 52, 54], "strong": [60, 62, 63], "smoothing": [40, 60, 54]},
            number=number,
        )
        for number in range(3)
    }
    table = evidence.table(runs).set_index("trial")
    assert table.loc[trials.BASE, "verdict"] == "base"
    assert table.loc["strong", "verdict"] == "helps"
    assert table.loc["strong", "difference"] == pytest.approx((185 - 156) / 300)
    assert table.loc["smoothing", "verdict"] == "not distinguishable"
    assert table.loc["strong", "landscapes"] == 3
    assert table.loc["strong", "seconds"] == 1.0
    assert table.loc["strong", "group"] == "augmentation"


def test_one_landscape_against_is_enough_to_claim_nothing():
    good, bad = (
        {trials.BASE: [50] * 3, "strong": [80] * 3},
        {trials.BASE: [50] * 3, "strong": [49] * 3},
    )
    table = evidence.table({"a": counts(good), "b": counts(good), "c": counts(bad)})
    row = table.set_index("trial").loc["strong"]
    assert row["least"] < 0 < row["low"]
    assert row["verdict"] == "not distinguishable"


def test_the_order_of_two_tables_is_compared_by_rank():
    one = evidence.table({"a": counts({trials.BASE: [50] * 3, "glaciernet": [60] * 3})})
    assert evidence.rank_correlation(one, one, groups=["network"]) == pytest.approx(1)
    other = evidence.table({"a": counts({trials.BASE: [60] * 3, "glaciernet": [50] * 3})})
    assert evidence.rank_correlation(one, other, groups=["network"]) == pytest.approx(-1)


def test_trials_are_unique_and_every_one_can_be_set_up():
    names = [trial.name for trial in trials.TRIALS]
    assert len(set(names)) == len(names)
    for trial in trials.TRIALS:
        trials.STUDY.changed(**trial.options)
        assert set(trial.members) <= set(names)
        assert all(names.index(member) < names.index(trial.name) for member in trial.members)
    assert len([t for t in trials.TRIALS if t.group == "network"]) >= 6


def test_the_study_never_looks_at_the_landscape_that_is_reported():
    for name in (0, "sample"):
        with pytest.raises(GlacierError, match="is the sample itself"):
            evidence.open_ground(name)


@pytest.mark.slow
def test_a_study_of_a_few_trials_runs_and_is_not_run_twice(tmp_path, monkeypatch, make_dataset):
    from glacier_utils.datasets.dataset import open_dataset
    from glacier_utils.datasets.patches import build_patches

    dataset = open_dataset(make_dataset(patches=(6, 6), size=32))
    patches = build_patches(dataset, size=32, block_m=640)
    base = trials.Trial(trials.BASE, "network", "base", model="glaciernet")
    chosen = [
        trials.Trial("threshold", "baseline", "", model="threshold"),
        base,
        trials.Trial("both dates", "shift", "", model="glaciernet", both_dates=True),
        trials.Trial("flips", "shift", "", flips=True),
        trials.Trial("pseudo-labels", "shift", "", pseudo=True),
        trials.Trial("pair", "shift", "", members=(trials.BASE, "both dates")),
    ]
    asked = {
        "date": "2023-08", "dates": ["2023-07", "2023-08"], "seed": 1, "trials": chosen,
        "settings": QUICK.changed(steps=12), "progress": False,
    }  # fmt: skip
    first = evidence.run_trials(patches, tmp_path / "study", **asked)
    assert set(first["trial"]) == {trial.name for trial in chosen}
    assert set(first["reference"]) == {"labels"}
    sums = first[["tp", "fp", "fn", "tn"]].sum(axis=1).groupby(first["trial"]).sum()
    assert sums.nunique() == 1
    monkeypatch.setattr(evidence.fitting, "fit", None)  # would fail if it were called
    again = evidence.run_trials(patches, tmp_path / "study", **asked)
    assert again.equals(first)
    table = evidence.table({"a": first}).set_index("trial")
    assert table.loc["threshold", "iou"] > 0.5
    with pytest.raises(GlacierError, match="has to come before"):
        evidence.run_trials(patches, tmp_path / "other", **asked | {"trials": chosen[3:4]})


@pytest.mark.slow
def test_the_study_runs_on_landscapes_and_once_more_elsewhere(tmp_path, make_dataset):
    from glacier_utils.datasets.dataset import open_dataset
    from glacier_utils.datasets.patches import build_patches

    opened = []

    def ground(name):
        opened.append(name)
        dates = ("2023-08",) if name == "elsewhere" else ("2023-07", "2023-08")
        dataset = open_dataset(make_dataset(f"ground-{name}", patches=(6, 6), size=32, dates=dates))
        return build_patches(dataset, size=32, block_m=640), list(dates)

    chosen = (
        trials.Trial("threshold", "baseline", "", model="threshold"),
        trials.Trial(trials.BASE, "network", "", model="random_forest"),
        trials.Trial("both dates", "shift", "", model="threshold", both_dates=True),
    )
    found = evidence.run_study(
        [1, 2], confirm="elsewhere", folder=tmp_path, trials=chosen, ground=ground, progress=False
    )
    assert opened == [1, 2, "elsewhere"]  # what confirms comes last
    assert list(found) == ["landscapes", "elsewhere"]
    landscapes = found["landscapes"].set_index("trial")
    assert landscapes["landscapes"].tolist() == [2, 2, 2]
    assert landscapes.loc[trials.BASE, "verdict"] == "base"
    assert set(found["elsewhere"]["trial"]) == {"threshold", trials.BASE}
    assert {path.name for path in tmp_path.glob("*.csv")} == {"landscapes.csv", "elsewhere.csv"}


def test_the_stored_study_holds_every_trial(tmp_path):
    found = evidence.read_tables()
    assert list(found) == ["landscapes", "everest"]
    names = {trial.name for trial in trials.TRIALS}
    assert names <= set(found["landscapes"]["trial"])
    assert names - {"both dates"} <= set(found["everest"]["trial"])
    assert found["landscapes"]["iou"].between(0, 1).all()
    with pytest.raises(GlacierError, match="holds no tables"):
        evidence.read_tables(tmp_path)


@pytest.mark.slow
def test_the_stored_study_is_shown(tmp_path, capsys, offscreen):
    assert main(["show", "--figures", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "landscapes, against the truth:" in shown
    assert "Kendall's tau 0.07" in shown
    assert {path.name for path in tmp_path.iterdir()} == {
        "landscapes.png", "everest.png", "order.png"
    }  # fmt: skip
    assert main(["show", "--folder", str(tmp_path)]) == 2
    assert "holds no tables" in capsys.readouterr().err
