"""The headline of a run, and which runs have none."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from finished_run import write_project, write_run

from glacier_utils.workflow import runs, summaries


@pytest.fixture
def run(tmp_path) -> runs.Run:
    return write_run(write_project(tmp_path))


def test_the_headline_is_read_from_the_tables(run):
    one = summaries.summarize(run)
    assert (one.name, one.state, one.reason) == ("default", "finished", "")
    assert (one.dataset, one.synthetic, one.trained) == ("sample", True, "train, 2023-08")
    assert one.seconds == 300
    assert one.best == "unet"
    assert {name: row["iou"] for name, row in one.headline.items()} == {
        "labels": 0.8,
        "truth": 0.78,
    }
    assert one.headline["labels"]["iou_high"] == pytest.approx(0.85)
    # (tp + fp) / (tp + fn) = 0.9 / 0.75.
    assert one.headline["labels"]["area_error"] == pytest.approx(20)
    assert [row["model"] for row in one.scores] == ["threshold"] * 2 + ["unet"] * 2
    assert [row["verdict"] for row in one.lead] == ["not distinguishable"]


def test_areas_are_those_of_the_test_area_with_their_errors(run):
    first, last = summaries.summarize(run).mapped
    assert [first["date"], last["date"]] == ["2023-07", "2023-08"]
    assert last["area_km2"] == 252.4
    assert last["labels"] == last["truth"] == pytest.approx(20)
    assert first["labels"] != first["labels"], "nothing is known of July"


def test_warnings_of_dataset_training_and_maps_are_told_once(run):
    for name in ("glaciernet", "unet"):
        (run.models / name).mkdir(parents=True)
        (run.models / name / "fit.json").write_text(json.dumps({"warning": "no validation"}))
    one = summaries.summarize(run)
    assert set(one.warnings) == {
        "test, 2023-08: odd <b>patches</b>",
        "glaciernet; unet: no validation",
        "test_2023-08: unlike the training",
    }
    assert len(one.warnings) == 3
    assert one.limits == ["That a single area is right."]


def test_paths_on_pages_start_at_the_project_or_at_home(run, monkeypatch, tmp_path_factory):
    home, root = tmp_path_factory.mktemp("home"), run.folder.parent.parent
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    text = f"{root}/data/a.tif: odd; '{home}/b.tif', /else{home}/c and {home}s/d: others"
    (run.models / "unet").mkdir(parents=True)
    (run.models / "unet" / "fit.json").write_text(json.dumps({"warning": text}))
    told = f"data/a.tif: odd; '~/b.tif', /else{home}/c and {home}s/d: others"
    assert f"unet: {told}" in summaries.summarize(run).warnings
    run.record(status="failed", failure=text)
    assert summaries.summarize(run).reason == told


def test_areas_that_look_like_numbers_keep_their_names(tmp_path):
    one = summaries.summarize(write_run(write_project(tmp_path), area="007"))
    assert [row["area"] for row in one.mapped] == ["007", "007"]
    assert one.headline["labels"]["area"] == "007"


@pytest.mark.parametrize(
    ("record", "state", "reason"),
    [
        (
            {"status": "failed", "failure": "cell [3] failed\x1b[2J"},
            "failed",
            "cell [3] failed [2J",
        ),
        ({"status": "failed", "failure": ""}, "failed", "it does not say why"),
        ({"status": "running"}, "unfinished", "at work, or broken off"),
        ({"status": None}, "unfinished", "at work, or broken off"),
        ({"steps": {"07_gone": {"seconds": 1}}}, "unfinished", "07_gone.html is gone"),
        ({"steps": ["no", "mapping"]}, "failed", "cannot be read"),
    ],
)
def test_a_run_that_is_not_finished_has_no_figures(run, record, state, reason):
    run.record(**record)
    one = summaries.summarize(run)
    assert one.state == state
    assert reason in one.reason
    assert (one.best, one.scores, one.mapped, one.headline) == ("", [], [], {})


def test_a_run_that_cannot_be_read_says_so(run):
    run.save_table(pd.DataFrame({"model": ["unet"]}), "models")
    one = summaries.summarize(run)
    assert (one.state, one.scores) == ("failed", [])
    assert one.reason.startswith("cannot be read")
    (run.folder / "run.json").write_text("{")
    assert "run.json: not valid JSON" in summaries.summarize(run).reason


def test_a_run_without_scores_is_finished_without_a_headline(run):
    for path in run.metrics.iterdir():
        path.unlink()
    one = summaries.summarize(run)
    assert (one.state, one.best, one.headline, one.mapped) == ("finished", "", {}, [])
