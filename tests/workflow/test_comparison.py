"""Runs side by side, with known differences."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from finished_run import patch_counts, write_project, write_run

from glacier_utils import cli
from glacier_utils.errors import GlacierError
from glacier_utils.metrics import SCORES as METRICS
from glacier_utils.workflow import runs
from glacier_utils.workflow.comparison import compare_runs


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("GLACIER_HOME", str(tmp_path))
    return write_project(tmp_path)


def spatial(**columns) -> pd.DataFrame:
    """Two models, two seeds, with known scores."""
    table = pd.DataFrame(
        {
            "model": ["unet", "unet", "threshold"],
            "area": "test",
            "date": "2023-08",
            "reference": "truth",
            "seed": [0, 1, 0],
            "iou": [0.7, 0.8, 0.5],
            "iou_low": [0.6, 0.7, 0.4],
            "iou_high": [0.8, 0.9, 0.6],
            "f1": [0.8, 0.9, 0.6],
            "precision": [0.9, 0.7, 0.5],
            "recall": [0.6, 1.0, 0.4],
        }
    )
    return table.assign(**columns)


def iou(table: pd.DataFrame) -> float:
    return float(METRICS["iou"](*table[["tp", "fp", "fn", "tn"]].sum()))


def test_scores_are_means_over_seeds(project):
    default, longer = runs.open_run("default"), runs.open_run("longer")
    default.save_table(spatial(), "spatial")
    longer.save_table(spatial(iou=[0.9, 0.9, np.nan]), "spatial")
    table = compare_runs([default, longer]).scores
    assert table["run"].tolist() == ["default (unfinished)"] * 2 + ["longer (unfinished)"] * 2
    assert table["model"].tolist() == ["unet", "threshold"] * 2
    assert table["seeds"].tolist() == [2, 1, 2, 1]
    np.testing.assert_allclose(table["iou"], [0.75, 0.5, 0.9, np.nan])
    np.testing.assert_allclose(table["iou_low"][:2], [0.65, 0.4])
    np.testing.assert_allclose(table["recall"][:2], [0.8, 0.4])


def test_runs_of_one_name_are_kept_apart(project, tmp_path):
    here, there = write_run(project), write_run(tmp_path / "other")
    there.save_table(spatial(iou=0.1), "spatial")
    table = compare_runs([here, there]).scores
    assert set(table["run"]) == {str(here.folder), str(there.folder)}


def test_a_table_without_a_column_is_named(project):
    run = runs.open_run("default")
    run.save_table(spatial().drop(columns="seed"), "spatial")
    with pytest.raises(GlacierError, match=r"spatial\.csv: has no column seed"):
        compare_runs([run])


def test_parameters_that_differ_and_the_cost(project):
    found = compare_runs([write_run(project), write_run(project, "longer", steps=1500, flips=True)])
    assert found.parameters.to_numpy().tolist() == [
        ["steps", 600, 1500],
        ["flips", None, True],
    ]
    assert found.cost["run_seconds"].tolist() == [300, 300]
    assert found.cost["best_model"].tolist() == ["unet", "unet"]
    assert found.cost["best_parameters"].tolist() == [14_331_345] * 2
    assert found.cost["best_seconds"].tolist() == [99, 99]
    assert found.notes == []


def test_differences_are_paired_on_the_same_ground(project):
    default, longer = write_run(project), write_run(project, "longer")
    better = patch_counts("test", missed=-4)
    # In another order, and with blocks of its own: the coarser ones of the two count.
    better["block"] = [f"{row:02d}-{col:02d}" for row, col in better[["row", "col"]].to_numpy()]
    longer.save_table(better.sample(frac=1, random_state=0), "patch_counts")
    table = compare_runs([default, longer]).differences.set_index("model")
    assert table["run"].tolist() == ["longer", "longer"]
    assert table["against"].tolist() == ["default", "default"]
    both = [part[part["model"] == "unet"] for part in (better, patch_counts("test"))]
    row = table.loc["unet"]
    assert row["difference"] == pytest.approx(iou(both[0]) - iou(both[1]))
    # Each patch is better by as much: a small difference is sure.
    assert 0 < row["low"] < row["difference"] < row["high"] < 2 * row["difference"]
    assert row["verdict"] == "better"
    same = table.loc["threshold"]
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)
    assert same["verdict"] == "not distinguishable"


def test_the_chosen_models_are_compared_when_they_are_others(project):
    default, other = write_run(project), write_run(project, "other")
    for name in ("models", "spatial", "patch_counts"):
        table = other.read_table(name).replace("unet", "glaciernet")
        other.save_table(table, name)
    table = compare_runs([default, other]).differences
    assert table[["model", "against"]].to_numpy().tolist() == [
        ["threshold", "default"],
        ["glaciernet", "default: unet"],
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table[table["row"] > 0],
        lambda table: table.assign(tp=table["tp"] + 1),
        lambda table: table.assign(date="2023-07"),
    ],
)
def test_other_ground_or_labels_give_no_paired_interval(project, change):
    default, other = write_run(project), write_run(project, "other")
    other.save_table(change(patch_counts("test")), "patch_counts")
    found = compare_runs([default, other])
    assert found.differences.empty
    (note,) = found.notes
    assert note.startswith("other: no paired interval with default is possible on test, 2023-08")


def test_runs_of_before_the_counts_say_what_is_missing(project):
    default, old = write_run(project), write_run(project, "old")
    (old.metrics / "patch_counts.csv").unlink()
    for order in ([default, old], [old, default]):
        found = compare_runs(order)
        assert found.differences.empty
        assert found.notes == [
            "old: no paired interval is possible without metrics/patch_counts.csv; run 04 again"
        ]


def test_a_failed_run_is_called_so_wherever_it_stands(project):
    default, failed = write_run(project), write_run(project, "longer")
    failed.record(status="failed", failure="cell [4] failed")
    found = compare_runs([default, failed])
    assert set(found.scores["run"]) == {"default", "longer (failed)"}
    assert found.cost["best_model"].tolist() == ["unet", ""]
    assert "longer: failed (cell [4] failed)" in found.notes[0]


def test_on_the_command_line(project, tmp_path, capsys):
    write_run(project)
    write_run(project, "longer", steps=1500)
    table, page = tmp_path / "a.csv", tmp_path / "a.html"
    assert cli.main(["compare", "default", "longer", "--csv", str(table), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    for heading in ("Parameters that differ", "Scores", "IoU less that of the first run", "Cost"):
        assert f"\n{heading}" in f"\n{out}"
    rows = pd.read_csv(table)
    assert len(rows) == 8
    paired = rows[(rows["run"] == "longer") & (rows["reference"] == "truth")]
    assert paired["verdict"].tolist() == ["not distinguishable"] * 2
    assert rows["parameter steps"].tolist() == [600] * 4 + [1500] * 4
    text = page.read_text(encoding="utf-8")
    assert "Comparison of default, longer" in text
    assert "1500" in text
    assert cli.main(["compare", "default", "longer", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"parameters", "scores", "differences", "cost", "notes"}
    assert content["cost"][0]["best_seconds"] == 99
    assert content["parameters"] == [{"parameter": "steps", "default": 600, "longer": 1500}]
