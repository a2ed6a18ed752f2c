"""Run folders: where they lie, what they record, what they refuse."""

from __future__ import annotations

import platform
import socket
from pathlib import Path

import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from matplotlib.colors import to_rgb

from glacier_utils import files
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.patches import build_patches
from glacier_utils.errors import GlacierError
from glacier_utils.workflow import runs


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project, which is the working directory."""
    root = tmp_path / "project"
    (root / "notebooks" / "parameters").mkdir(parents=True)
    monkeypatch.delenv("GLACIER_HOME", raising=False)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def run(project) -> runs.Run:
    return runs.open_run("default")


TABLE = pd.DataFrame({"model": ["unet", "threshold"], "seed": [0, 0], "iou": [0.7, 0.5]})


def test_project_root_is_found_from_any_folder_inside(project, monkeypatch):
    deep = project / "notebooks" / "parameters"
    assert runs.project_root() == project
    assert runs.project_root(deep) == project
    monkeypatch.chdir(deep)
    assert runs.project_root() == project


def test_project_root_can_be_named(project, tmp_path, monkeypatch):
    monkeypatch.setenv("GLACIER_HOME", str(tmp_path))
    assert runs.project_root() == tmp_path
    monkeypatch.setenv("GLACIER_HOME", str(tmp_path / "typing error"))
    with pytest.raises(GlacierError, match=r"GLACIER_HOME.*typing error"):
        runs.project_root()


def test_project_root_outside_is_the_clone_that_the_package_lies_in(project, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_CLONE", project)
    assert runs.project_root(tmp_path) == project


def test_project_root_outside_says_what_to_do(project, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_CLONE", tmp_path)  # installed, without a clone
    with pytest.raises(GlacierError, match=r"not inside the project.*GLACIER_HOME"):
        runs.project_root(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/x", "a\\b", ".hidden", "x/", "a:b", "what?", "a\nb", "x."],
)
def test_open_run_refuses_names_that_are_no_folder(project, name):
    with pytest.raises(GlacierError, match="not a plain folder name") as error:
        runs.open_run(name)
    assert "\n" not in str(error.value)
    assert not (project / "reports").exists()


def test_open_run_makes_the_folder_and_keeps_what_is_there(project):
    run = runs.open_run("both dates-2", root=project)
    assert run.folder == project / "reports" / "both dates-2"
    assert run.name == run.read_record()["run"] == "both dates-2"
    run.record(provenance={"started": "then"})
    assert runs.open_run("both dates-2").read_record()["provenance"]["started"] == "then"


def test_provenance_tells_versions_but_not_the_machine(run):
    record = run.read_record()["provenance"]
    assert record["python"] == platform.python_version()
    assert record["packages"]["torch"].startswith("2.")
    assert set(record["packages"]) == set(runs.PACKAGES)
    assert record["commit"] is None  # an empty folder outside git
    assert set(record["host"]) == {"system", "machine", "cores"}
    assert socket.gethostname() not in record["host"].values()


def test_record_replaces_what_stood_there(run):
    run.record(parameters={"steps": 1, "seeds": [0]})
    run.record(parameters={"seeds": [1]})
    assert run.read_record()["parameters"] == {"seeds": [1]}
    assert run.read_record()["run"] == "default"


@pytest.mark.parametrize("text", ["{", "", "[]", "null"])
def test_a_broken_record_names_the_file(run, text):
    (run.folder / "run.json").write_text(text)
    with pytest.raises(GlacierError, match=r"run\.json.*remove it"):
        run.read_record()


def test_colours_of_a_legend_stay_what_they_are_beside_an_image(run):
    colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
    figure, axes = plt.subplots(2)
    axes[0].imshow(np.random.default_rng(0).random((200, 300, 3)))
    axes[1].bar(range(6), 1, color=colours)
    run.save_figure(figure, "legend", synthetic=False)
    with PIL.Image.open(run.figures / "legend.png") as picture:
        found = np.array(picture.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in colours:
        wanted = 255 * np.array(to_rgb(colour))
        assert np.abs(found - wanted).max(axis=1).min() <= 8


def test_save_figure_writes_a_picture_and_save_table_hands_back_its_table(run):
    figure = matplotlib.figure.Figure()
    figure.subplots().plot([0, 1])
    run.save_figure(figure, "curve")
    assert (run.figures / "curve.png").read_bytes().startswith(b"\x89PNG")
    table = TABLE
    assert run.save_table(table, "spatial") is table
    pd.testing.assert_frame_equal(run.read_table("spatial"), table)
    run.save_text("retreat\n", "conclusions.md")
    assert (run.metrics / "conclusions.md").read_text() == "retreat\n"


def test_figures_of_a_synthetic_dataset_say_so(run, project, monkeypatch):
    def texts(manifest: str) -> list[str]:
        (project / "dataset.yaml").write_text(
            f"areas: {{train: {{2023-08: images/*.tif}}}}\n{manifest}"
        )
        runs.open_data("dataset.yaml", project)
        figure = matplotlib.figure.Figure()
        run.save_figure(figure, "any")
        return [text.get_text() for text in figure.texts]

    monkeypatch.setattr(runs, "_shown", {"synthetic": False})
    assert texts("synthetic: true") == ["synthetic sample"]
    real = matplotlib.figure.Figure()
    run.save_figure(real, "real", synthetic=False)  # a real scene, mapped beside the sample
    assert not real.texts
    assert texts("") == []


def test_names_from_the_data_stay_inside_the_run(run):
    # Areas name figures and tables, and users name areas.
    run.save_table(TABLE, "../../north/west")
    assert [path.name for path in run.metrics.iterdir()] == [".._.._north_west.csv"]
    assert len(run.read_table("../../north/west")) == len(TABLE)


def test_a_missing_or_broken_table_says_what_to_do(run):
    expected = r"spatial\.csv: not there yet; run 04_spatial_evaluation with run='default'"
    with pytest.raises(GlacierError, match=expected):
        run.read_table("spatial")
    run.metrics.mkdir()
    (run.metrics / "spatial.csv").touch()
    with pytest.raises(GlacierError, match=r"spatial\.csv: cannot be read"):
        run.read_table("spatial")


def test_patches_before_notebook_02_say_what_to_run(run):
    with pytest.raises(GlacierError, match="02_preprocessing with run='default'"):
        run.open_patch_store()


def test_patches_of_another_dataset_are_refused(run, make_dataset):
    folder = make_dataset(patches=(4, 6), size=32)
    store = build_patches(open_dataset(folder), size=32, block_m=640.0)
    run.record_patch_store(store)
    runs.open_data(folder)
    assert run.open_patch_store().key == store.key
    other = make_dataset("other", patches=(1, 1), size=32)
    runs.open_data(other)
    with pytest.raises(GlacierError, match="its patches are of dataset 'tiny', not of 'other'"):
        run.open_patch_store()
    runs.open_run("default")  # a notebook that needs no dataset, as 03
    assert run.open_patch_store().key == store.key


def test_a_patch_store_that_was_removed_is_named(run):
    run.record(patch_store="data/tiny/patches/123")
    with pytest.raises(GlacierError, match=r"data.tiny.patches.123"):
        run.open_patch_store()


def test_data_opens_by_name_and_by_a_path_that_starts_at_the_project(
    project, make_dataset, monkeypatch
):
    folder = make_dataset(patches=(1, 1), size=8)
    (project / "data").mkdir()
    folder.rename(project / "data" / "tiny")
    monkeypatch.chdir(project / "notebooks")  # where the notebooks run
    for name in ("tiny", "data/tiny", "data/tiny/dataset.yaml", str(project / "data" / "tiny")):
        assert runs.open_data(name).folder == project / "data" / "tiny"
    with pytest.raises(GlacierError, match=r"tyni.*tiny"):
        runs.open_data("tyni")


def test_relative_paths_only_inside_the_project(project, tmp_path):
    assert runs.relative(project / "data" / "x") == "data/x"
    assert runs.relative("reports") == "reports"
    assert runs.relative(tmp_path) == str(tmp_path)
    assert runs.relative(tmp_path / "x", root=tmp_path) == "x"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.5, 0.5, 0.5), "0.50 (0.50 to 0.50)"),
        ((0.123456, float("nan"), float("nan")), "0.12 (nan to nan)"),
        ((3.12, 2.9, 3.4), "3.1 (2.9 to 3.4)"),
        ((1093.4, 900.2, 1210.9), "1093 (900 to 1211)"),
        ((-0.004, -0.03, 0.02), "0.00 (-0.03 to 0.02)"),
    ],
)
def test_an_interval_bears_so_many_digits(numbers, text):
    assert runs.with_interval(*numbers) == text


def test_rounded_leaves_whole_numbers_and_text():
    table = pd.DataFrame({"iou": [0.12345], "patches": [12345], "area": ["test"]})
    assert runs.rounded(table).to_dict("list") == {
        "iou": [0.123],
        "patches": [12345],
        "area": ["test"],
    }
