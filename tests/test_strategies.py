import dataclasses

import numpy as np
import pytest
import torch
from stubs import Store

from glacier_utils import study, trials
from glacier_utils.errors import GlacierError
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.prediction import adaptation
from glacier_utils.strategies import pseudo_labelled, self_train
from glacier_utils.training.fitting import fit
from glacier_utils.training.settings import Settings, change_settings

QUICK = Settings(epochs=2, batch_size=3, learning_rate=1e-2, threads=1)
SMALL = {"filters": [4, 8]}


def store(test_labels: str = "true") -> Store:
    """A store whose test patches carry their labels, or wrong ones."""
    made = Store(size=32, count=24)
    made.index["weight"] = 1.0
    test = made.select(split="test")
    if test_labels == "wrong":
        made.labels[test] = 1 - made.labels[test]
    return made


CHANGES = [
    {"normalisation": "scene"},
    {"augmentation": "strong"},
    {"balanced": True},
    {"average": 0.5},
    {"noise": "bootstrap"},
    {"loss": "boundary", "smoothing": 0.1},
]


@pytest.mark.parametrize("options", CHANGES, ids=lambda options: next(iter(options)))
def test_no_training_strategy_reads_test_labels(tmp_path, options):
    weights = []
    for labels in ("true", "wrong"):
        result = fit(
            "glaciernet", store(labels), tmp_path / labels, arguments=SMALL,
            settings=dataclasses.replace(QUICK, **options), progress=False,
        )  # fmt: skip
        segmenter = load_checkpoint(result.checkpoint)
        numbers = [segmenter.threshold, segmenter.temperature]
        weights.append((segmenter.state_dict(), numbers, result.validation))
    (one, numbers, scores), (other, numbers_other, scores_other) = weights
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert numbers == numbers_other
    assert scores == scores_other


def test_no_adaptation_and_no_self_training_reads_test_labels(tmp_path):
    found = []
    for labels in ("true", "wrong"):
        here = store(labels)
        targets = here.select(split="test", date="2023-08")
        teacher = fit(
            "glaciernet", here, tmp_path / labels / "teacher", arguments=SMALL,
            settings=dataclasses.replace(QUICK, epochs=8), progress=False,
        ).checkpoint  # fmt: skip
        student = self_train(
            teacher, here, targets, tmp_path / labels / "student", settings=QUICK,
            dates="2023-08", confident=0.6, progress=False,
        ).checkpoint  # fmt: skip
        maps = [
            adaptation.predict_by_scene(
                load_checkpoint(path), here, targets, batch_norm=batch_norm, flips=batch_norm
            )
            for path in (teacher, student)
            for batch_norm in (False, True)
        ]
        found.append((maps, load_checkpoint(student).state_dict()))
    for one, other in zip(*(maps for maps, _ in found), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(torch.equal(value, found[1][1][key]) for key, value in found[0][1].items())
    teacher_weights = load_checkpoint(teacher).state_dict()
    assert not all(torch.equal(value, teacher_weights[key]) for key, value in found[0][1].items())


def test_confident_pixels_teach_and_all_other_test_labels_are_hidden():
    here = store()
    targets = here.select(split="test", date="2023-08")[:2]
    probability = np.full((2, 32, 32), 0.5, np.float32)
    probability[0, 0, :3] = 0.95, 0.05, 0.85
    here.images[targets[1]][:, 5] = 0
    probability[1, 5] = 0.99  # certain of what was not seen
    made = pseudo_labelled(here, targets, probability)
    assert made.labels[targets[0], 0, :4].tolist() == [1, 0, 255, 255]
    assert (made.labels[targets[1]] == 255).all()
    hidden = np.setdiff1d(here.select(split="test"), targets)
    assert (made.labels[hidden] == 255).all()
    train = here.select(split="train")
    np.testing.assert_array_equal(made.labels[train], here.labels[train])
    np.testing.assert_array_equal(made.select(split="train"), np.union1d(train, targets))
    assert (made.index["weight"].to_numpy()[targets[:1]] > 0).all()  # drawn when balanced
    assert made.key != pseudo_labelled(here, targets, probability, confident=0.8).key
    assert (here.index["split"].to_numpy()[targets] == "test").all()


def test_mistakes_in_self_training_are_told(tmp_path):
    here = store()
    validation = here.select(split="validation")
    with pytest.raises(GlacierError, match="validation patches cannot teach"):
        pseudo_labelled(here, validation, np.zeros((len(validation), 32, 32)))
    with pytest.raises(GlacierError, match="confident is"):
        pseudo_labelled(here, validation[:0], np.zeros((0, 32, 32)), confident=0.5)
    forest = fit("threshold", here, tmp_path / "t", progress=False).checkpoint
    with pytest.raises(GlacierError, match="needs a network"):
        self_train(forest, here, here.select(split="test"), tmp_path / "s")
    network = fit(
        "glaciernet", here, tmp_path / "n", arguments=SMALL, settings=QUICK, progress=False
    ).checkpoint
    with pytest.raises(GlacierError, match="targets of 2023-07"):
        self_train(network, here, here.select(split="test"), tmp_path / "s", dates="2023-08")


# ---- the study


def counts(hits: dict[str, list[int]], *, world: int = 0):
    """Counts of three blocks: tp as told, and misses that make up 100."""
    import pandas as pd

    rows = [
        {"trial": trial, "reference": "truth", "block": f"b{block}", "tp": tp, "fp": 0,
         "fn": 100 - tp, "tn": 100, "seconds": 1.0 + world, "parameters": 5}
        for trial, values in hits.items()
        for block, tp in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_table_compares_with_the_base_on_the_same_blocks():
    runs = {
        str(world): counts(
            {trials.BASE: [50, 52, 54], "strong": [60, 62, 63], "scene": [40, 60, 54]}, world=world
        )
        for world in range(3)
    }
    table = study.table(runs).set_index("trial")
    assert table.loc[trials.BASE, "verdict"] == "base"
    assert table.loc["strong", "verdict"] == "helps"
    assert table.loc["strong", "difference"] == pytest.approx((185 - 156) / 300)
    assert table.loc["scene", "verdict"] == "not distinguishable"
    assert table.loc["strong", "worlds"] == 3
    assert table.loc["strong", "seconds"] == 1.0
    assert table.loc["strong", "group"] == "augmentation"


def test_one_world_against_is_enough_to_claim_nothing():
    good, bad = (
        {trials.BASE: [50] * 3, "strong": [80] * 3},
        {trials.BASE: [50] * 3, "strong": [49] * 3},
    )
    table = study.table({"a": counts(good), "b": counts(good), "c": counts(bad)})
    row = table.set_index("trial").loc["strong"]
    assert row["least"] < 0 < row["low"]
    assert row["verdict"] == "not distinguishable"


def test_the_order_of_two_tables_is_compared_by_rank():
    one = study.table({"a": counts({trials.BASE: [50] * 3, "glaciernet": [60] * 3})})
    assert study.order_holds(one, one, groups=["network"]) == pytest.approx(1)
    other = study.table({"a": counts({trials.BASE: [60] * 3, "glaciernet": [50] * 3})})
    assert study.order_holds(one, other, groups=["network"]) == pytest.approx(-1)


def test_trials_are_unique_and_every_one_can_be_set_up():
    names = [trial.name for trial in trials.TRIALS]
    assert len(set(names)) == len(names)
    for trial in trials.TRIALS:
        change_settings(trials.STUDY, trial.options)
        assert set(trial.members) <= set(names)
        assert all(names.index(member) < names.index(trial.name) for member in trial.members)
    assert len([t for t in trials.TRIALS if t.group == "network"]) >= 6


def test_the_study_never_looks_at_the_world_that_is_reported():
    for name in (0, "sample"):
        with pytest.raises(GlacierError, match="is the sample itself"):
            study.open_ground(name)


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
        trials.Trial("batch_norm", "shift", "", batch_norm=True),
        trials.Trial("flips", "shift", "", flips=True),
        trials.Trial("pseudo-labels", "shift", "", pseudo=True),
        trials.Trial("pair", "shift", "", members=(trials.BASE, "both dates")),
    ]
    asked = {
        "date": "2023-08", "dates": ["2023-07", "2023-08"], "seed": 1, "trials": chosen,
        "settings": dataclasses.replace(QUICK, epochs=4), "progress": False,
    }  # fmt: skip
    first = study.run_trials(patches, tmp_path / "study", **asked)
    assert set(first["trial"]) == {trial.name for trial in chosen}
    assert set(first["reference"]) == {"labels"}
    sums = first[["tp", "fp", "fn", "tn"]].sum(axis=1).groupby(first["trial"]).sum()
    assert sums.nunique() == 1
    monkeypatch.setattr(study.training, "fit", None)  # would fail if it were called
    again = study.run_trials(patches, tmp_path / "study", **asked)
    assert again.equals(first)
    table = study.table({"a": first}).set_index("trial")
    assert table.loc["threshold", "iou"] > 0.5
    with pytest.raises(GlacierError, match="has to come before"):
        study.run_trials(patches, tmp_path / "other", **asked | {"trials": chosen[3:4]})


def test_the_study_runs_on_worlds_and_once_more_elsewhere(tmp_path, monkeypatch, make_dataset):
    from glacier_utils.datasets.dataset import open_dataset
    from glacier_utils.datasets.patches import build_patches

    opened = []

    def ground(name):
        opened.append(name)
        dates = ("2023-08",) if name == "elsewhere" else ("2023-07", "2023-08")
        dataset = open_dataset(make_dataset(f"ground-{name}", patches=(6, 6), size=32, dates=dates))
        return build_patches(dataset, size=32, block_m=640), list(dates)

    monkeypatch.setattr(study, "open_ground", ground)
    monkeypatch.setattr(study, "TRIALS", (
        trials.Trial("threshold", "baseline", "", model="threshold"),
        trials.Trial(trials.BASE, "network", "", model="random_forest"),
        trials.Trial("both dates", "shift", "", model="threshold", both_dates=True),
    ))  # fmt: skip
    found = study.evidence([1, 2], confirm="elsewhere", folder=tmp_path, progress=False)
    assert opened == [1, 2, "elsewhere"]  # what confirms comes last
    assert list(found) == ["worlds", "elsewhere"]
    worlds = found["worlds"].set_index("trial")
    assert worlds["worlds"].tolist() == [2, 2, 2]
    assert worlds.loc[trials.BASE, "verdict"] == "base"
    assert set(found["elsewhere"]["trial"]) == {"threshold", trials.BASE}
    assert {path.name for path in tmp_path.glob("*.csv")} == {"worlds.csv", "elsewhere.csv"}


def test_the_stored_study_holds_every_trial():
    found = study.evidence([], folder="nowhere")
    names = {trial.name for trial in trials.TRIALS}
    assert set(found["worlds"]["trial"]) == names
    assert set(found["everest"]["trial"]) == names - {"both dates"}
    assert found["worlds"]["iou"].between(0, 1).all()
