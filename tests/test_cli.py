"""The command ``glacier``: what it prints, how it ends, and what it must not touch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from stubs import BANDS

from glacier_utils import cli, files
from glacier_utils.models import registry
from glacier_utils.models.checkpoint import Segmenter, save_checkpoint
from glacier_utils.workflow import runs

COMMANDS = ("sample", "fetch", "check", "run", "reproduce", "models", "train", "predict", "compare")
ICE, GROUND = 5000, 1200  # digital numbers of a scene in 10000 x reflectance


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project with one notebook; the working directory lies outside."""
    root = tmp_path / "project"
    (root / "notebooks" / "parameters").mkdir(parents=True)
    cell = nbformat.v4.new_code_cell("steps = 40", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbformat.write(notebook, root / "notebooks" / "01_first.ipynb")
    monkeypatch.setenv("GLACIER_HOME", str(root))
    monkeypatch.chdir(tmp_path)
    return root


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A threshold model that calls glacier what is brighter than 0.3."""
    segmenter = Segmenter("threshold", BANDS, [0.0] * 4, [1.0] * 4)
    segmenter.network.thresholds.copy_(torch.tensor([0.3, -2.0, 2.0]))
    return save_checkpoint(tmp_path / "checkpoint.pt", segmenter)


@pytest.fixture
def scene(tmp_path, write_tif) -> Path:
    """A scene of 48 x 40 pixels: ice in the upper half, ground below, a corner without image."""
    numbers = np.full((4, 48, 40), GROUND, dtype=np.uint16)
    numbers[:, :24] = ICE
    numbers[:, :4, :4] = 0
    return write_tif(tmp_path / "scene.tif", numbers, nodata=0)


def fails(capsys, *arguments: str | Path) -> str:
    """Run a command that must end with status 2 and one line; give the line."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    # A progress bar may stand before it.
    message = capsys.readouterr().err.split("row/s]\n")[-1]
    assert message.startswith("glacier: ")
    assert message.count("\n") == 1
    return message


# What argparse says


def test_help_is_there_at_once():
    # Startup is what a mistyped argument costs: nothing heavy may be imported for it.
    code = (
        "import sys\n"
        "from glacier_utils import cli\n"
        "try:\n"
        "    cli.main(['--help'])\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'numpy', 'rasterio', 'papermill'} & set(sys.modules)\n"
        "    print('status', end.code, 'imported', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in COMMANDS:
        assert re.search(rf"\n    {command}\s", done.stdout)
    assert done.stdout.endswith("status 0 imported []\n")


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "glacier_utils.cli", "compare", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("usage: glacier compare")


@pytest.mark.parametrize(
    "arguments",
    [[], ["bogus"], ["predict", "a.pt"], ["sample", "--seed", "-1"], ["compare"]],
)
def test_wrong_arguments_end_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "glacier" in capsys.readouterr().err


def test_check_wants_a_dataset_or_the_schema(capsys):
    assert cli.main(["check"]) == 2
    assert "name a DATASET, or give --schema" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: glacier {command}" in capsys.readouterr().out


# check


def test_check_accepts_a_good_dataset_by_path_and_by_name(project, make_dataset, capsys):
    folder = make_dataset(patches=(2, 2), size=16)
    assert cli.main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.endswith("no problems found\n")
    assert out.count("2023-07") == out.count("2023-08") == 2
    (project / "data").mkdir()
    folder.rename(project / "data" / "tiny")
    assert cli.main(["check", "tiny"]) == 0


def test_check_of_a_path_needs_no_project(make_dataset, tmp_path, monkeypatch):
    monkeypatch.delenv("GLACIER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", str(make_dataset(patches=(1, 1), size=16))]) == 0


def test_check_tells_what_is_wrong_and_ends_with_2(project, make_dataset, capsys):
    folder = make_dataset(patches=(2, 2), size=16)
    for path in (folder / "images" / "test" / "2023-08").glob("*.tif"):
        path.unlink()
    assert cli.main(["check", str(folder)]) == 2
    captured = capsys.readouterr()
    assert "1 of 4 cannot be used as they are" in captured.out
    assert "Traceback" not in captured.err


def test_check_names_a_dataset_that_is_not_there(project, make_dataset, capsys):
    (project / "data").mkdir()
    make_dataset(patches=(1, 1), size=8).rename(project / "data" / "tiny")
    assert "did you mean 'tiny'" in fails(capsys, "check", "tinny")
    assert "make it with `glacier sample`" in fails(capsys, "check", "sample")
    assert "has no dataset.yaml" in fails(capsys, "check", project)


def test_check_prints_the_schema_for_editors(capsys):
    assert cli.main(["check", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["required"] == ["areas"]
    assert "name a DATASET, or give --schema" in fails(capsys, "check")


def test_check_names_a_broken_manifest(project, make_dataset, capsys):
    manifest = make_dataset(patches=(1, 1), size=8) / "dataset.yaml"
    manifest.write_text("areas: {train: ")
    assert "dataset.yaml: is not readable YAML" in fails(capsys, "check", manifest)


def test_outside_a_project_names_say_where_to_go(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("GLACIER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "_CLONE", tmp_path)  # installed, without a clone
    for arguments in (["check", "tiny"], ["run"], ["sample"], ["compare", "default"]):
        assert "not inside the project" in fails(capsys, *arguments)


# sample


def test_sample_does_not_touch_one_that_is_there(project, capsys):
    manifest = project / "data" / "mine" / "dataset.yaml"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("name: mine\n")
    assert cli.main(["sample", "--name", "mine"]) == 0
    assert "data/mine: already there; remove it" in capsys.readouterr().out
    assert manifest.read_text() == "name: mine\n"
    assert list(manifest.parent.iterdir()) == [manifest]


def test_sample_makes_what_is_not_there(project, monkeypatch, capsys):
    made = []

    def make_sample(folder, *, seed, areas, progress):
        made.append((folder, seed, areas))
        return folder / "dataset.yaml"

    monkeypatch.setattr("glacier_utils.synthetic.sample.make_sample", make_sample)
    assert cli.main(["sample", "--seed", "7", "--areas", "2"]) == 0
    assert made == [(project / "data" / "sample", 7, 2)]
    assert capsys.readouterr().out == "data/sample/dataset.yaml: made with seed 7\n"


def test_sample_stays_in_data_and_spares_other_folders(project, capsys):
    assert "not a plain folder name" in fails(capsys, "sample", "--name", "../notebooks")
    notes = project / "data" / "sample" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.touch()
    assert "holds something other than the synthetic sample" in fails(capsys, "sample")
    assert notes.exists()


# run


def test_run_refuses_a_parameter_that_no_notebook_has(project, capsys):
    path = project / "notebooks" / "parameters" / "longer.yaml"
    path.write_text("step: 3\n")
    message = fails(capsys, "run", path)
    assert "longer.yaml: no notebook has a parameter 'step'; did you mean 'steps'" in message
    assert "none.yaml: cannot be read" in fails(capsys, "run", project / "none.yaml")
    assert not (project / "reports").exists()


# models


def test_models_lists_registry_and_decoders(capsys):
    assert cli.main(["models"]) == 0
    text = capsys.readouterr().out
    for name in (*registry.names(), *registry.DECODERS):
        assert f"\n{name} " in f"\n{text}"
    assert max(map(len, text.splitlines())) < 160


@pytest.mark.parametrize(
    ("name", "count"), [("fpn-resnet18", "13,0"), ("random_forest", "set when fitted")]
)
def test_models_describes_one(name, count, capsys):
    assert cli.main(["models", name]) == 0
    description, reference, parameters = capsys.readouterr().out.splitlines()
    assert description == registry.describe(name)
    assert reference == registry.reference(name)
    assert parameters.startswith(f"parameters for 4 bands: {count}")


def test_models_lists_encoders_that_contain_a_text(capsys):
    assert cli.main(["models", "--encoders", "ResNet1"]) == 0
    found = capsys.readouterr().out.split()
    assert "resnet18" in found
    assert "tu-resnet18" in found
    assert all("resnet1" in name for name in found)
    assert cli.main(["models", "--encoders"]) == 0
    assert set(found) < set(capsys.readouterr().out.split())


def test_models_suggests_the_nearest(capsys):
    assert "did you mean 'glaciernet'?" in fails(capsys, "models", "glacernet")
    assert "no encoder contains 'glacier'" in fails(capsys, "models", "--encoders", "glacier")
    assert "not both" in fails(capsys, "models", "glaciernet", "--encoders", "mit")


# predict


def test_predict_maps_a_scene(project, checkpoint, scene, tmp_path, capsys):
    out = tmp_path / "maps" / "glaciers.tif"
    assert cli.main(["predict", *map(str, (checkpoint, scene, out))]) == 0
    names = ["glaciers.tif", "glaciers_class.tif", "glaciers_outlines.gpkg", "glaciers.json"]
    told = capsys.readouterr()
    assert told.out.splitlines() == [str(out.parent / name) for name in names]
    assert "1 scene with scale 10000 and offset 0, as in the training" in told.err
    assert {path.name for path in out.parent.iterdir()} == {*names, "glaciers.qml"}
    with rasterio.open(out) as written, rasterio.open(scene) as source:
        assert (written.crs, written.transform) == (source.crs, source.transform)
        assert (written.nodata, written.scales) == (255, (0.004,))
        assert written.tags()["MODEL"] == "threshold"
        steps = written.read(1)
    assert (steps[:4, :4] == 255).all()
    assert (steps != 255).sum() == steps.size - 16
    assert (steps[4:24] > 247).all()
    assert (steps[24:] < 3).all()


def test_predict_maps_a_scene_without_any_training(project, scene, tmp_path, capsys):
    assert cli.main(["predict", "builtin", str(scene), str(tmp_path / "maps")]) == 0
    (path,) = (tmp_path / "maps").glob("*_probability.tif")
    with rasterio.open(path) as written:
        assert written.tags()["MODEL"] == "unet-small"
        assert (written.read(1) == 255).sum() == 16


def test_predict_maps_scenes_into_a_folder(project, checkpoint, scene, tmp_path, capsys):
    """With a second model, the mean of both; scenes that are there are not mapped again."""
    other = tmp_path / "other.tif"
    shutil.copy(scene, other)
    out = tmp_path / "maps"
    arguments = ["predict", *map(str, (checkpoint, scene, other, out)), "--with", str(checkpoint)]
    assert cli.main(arguments) == 0
    told = capsys.readouterr().out
    assert "2 scenes: 2 mapped" in told
    assert str(out / "mosaic_outlines.gpkg") in told
    made = {path.name for path in out.iterdir()}
    assert {"scene_class.tif", "other_probability.tif", "scene.json", "scenes.csv"} <= made
    with rasterio.open(out / "scene_class.tif") as file:
        assert file.tags()["MODEL"] == "threshold + threshold"
    assert cli.main(arguments) == 0
    assert "2 scenes: 2 unchanged" in capsys.readouterr().out
    message = fails(capsys, "predict", checkpoint, scene, other, tmp_path / "one.tif")
    assert "one.tif: is one file for 2 scenes; name a folder" in message


def test_predict_takes_the_scale_from_the_command_line(project, checkpoint, scene, tmp_path):
    out = tmp_path / "dark.tif"
    arguments = ["predict", *map(str, (checkpoint, scene, out)), "--scale", "100000"]
    assert cli.main([*arguments, "--window", "16", "--overlap", "4"]) == 0
    with rasterio.open(out) as written:
        steps = written.read(1)
        assert steps[steps != 255].max() < 3


def test_scale_and_offset_that_are_given_are_not_said_to_be_of_the_training(
    project, checkpoint, scene, tmp_path, capsys
):
    arguments = ["predict", *map(str, (checkpoint, scene, tmp_path / "a.tif"))]
    assert cli.main([*arguments, "--scale", "10000", "--offset", "0"]) == 0
    assert "as in the training" not in capsys.readouterr().err


def test_predict_names_what_is_missing_or_broken(project, checkpoint, scene, tmp_path, capsys):
    out = tmp_path / "out.tif"
    none = tmp_path / "none"
    assert "none: no such checkpoint" in fails(capsys, "predict", none, scene, out)
    assert "scene.tif: not a readable checkpoint" in fails(capsys, "predict", scene, scene, out)
    assert str(none) in fails(capsys, "predict", checkpoint, none, out)
    text = tmp_path / "notes.tif"
    text.write_text("no image")
    assert "notes.tif" in fails(capsys, "predict", checkpoint, text, out)
    assert "overlap 64: must be" in fails(
        capsys, "predict", checkpoint, scene, out, "--window", "32"
    )
    assert "scale" in fails(capsys, "predict", checkpoint, scene, out, "--scale", "0")
    assert not out.exists()


def test_predict_says_where_it_cannot_write(project, checkpoint, scene, tmp_path, capsys):
    folder = tmp_path / "folder.tif"
    folder.mkdir()
    assert "folder.tif: is a folder; name a file" in fails(
        capsys, "predict", checkpoint, scene, folder
    )
    assert "scene.tif" in fails(capsys, "predict", checkpoint, scene, scene / "out.tif")


# compare


def spatial(iou: float) -> pd.DataFrame:
    row = {"model": "unet", "area": "test", "date": "2023-08", "reference": "truth", "seed": 0}
    row |= dict.fromkeys(("iou_low", "iou_high"), iou)
    return pd.DataFrame([row | dict.fromkeys(runs.SCORES, iou)])


def test_compare_takes_names_and_folders(project, capsys):
    runs.open_run("default").save_table(spatial(0.5), "spatial")
    longer = runs.open_run("longer")
    longer.save_table(spatial(0.75), "spatial")
    assert cli.main(["compare", "default", str(longer.folder)]) == 0
    scores = capsys.readouterr().out.partition("Scores, means over seeds:\n")[2]
    header, *rows = scores.partition("\n\n")[0].splitlines()
    assert header.split()[:2] == ["run", "model"]
    assert [row.split()[0] for row in rows] == ["default", "longer"]
    assert [row.split()[-1] for row in rows] == ["0.50", "0.75"]


def test_compare_names_a_run_that_is_not_there(project, capsys):
    runs.open_run("default")
    assert "longer: no such run" in fails(capsys, "compare", "default", "longer")
    message = fails(capsys, "compare", "default")
    assert "spatial.csv: not there yet; run 04_spatial_evaluation" in message


# JSON


def printed(capsys, *arguments: str | Path, status: int = 0) -> dict:
    """Run a command with --json; what it prints must be JSON, strictly, and nothing else."""
    assert cli.main([*map(str, arguments), "--json"]) == status

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(capsys.readouterr().out, parse_constant=refuse)


def test_check_as_json(project, make_dataset, capsys):
    folder = make_dataset(patches=(2, 2), size=16)
    content = printed(capsys, "check", folder)
    assert [image["date"] for image in content["images"]] == ["2023-07", "2023-08"] * 2
    assert content["findings"] == []
    manifest = folder / "dataset.yaml"
    manifest.write_text(manifest.read_text().replace("2023-07", "2023-07-99", 1))
    assert cli.main(["check", str(folder), "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_check_as_json_ends_as_without(project, make_dataset, capsys):
    folder = make_dataset(patches=(2, 2), size=16)
    next((folder / "images").rglob("*.tif")).write_text("no image")
    content = printed(capsys, "check", folder, status=2)
    assert {finding["severity"] for finding in content["findings"]} >= {"error"}


def test_models_as_json(capsys):
    content = printed(capsys, "models")
    assert content["models"]["unet-resnet18"] == registry.describe("unet-resnet18")
    assert set(content["decoders"]) == set(registry.DECODERS)
    one = printed(capsys, "models", "glaciernet")
    assert one["reference"] == registry.reference("glaciernet")
    assert one["parameters"] > 1_000_000
    assert printed(capsys, "models", "random_forest")["parameters"] is None
    assert "resnet18" in printed(capsys, "models", "--encoders", "resnet1")["encoders"]


def test_predict_as_json(project, checkpoint, scene, tmp_path, capsys):
    one = printed(capsys, "predict", checkpoint, scene, tmp_path / "ice.tif", "--date", "2023-08")
    assert one["files"]["probability"] == str(tmp_path / "ice.tif")
    assert all(Path(path).is_file() for path in one["files"].values())
    many = printed(capsys, "predict", checkpoint, scene, tmp_path / "maps")
    assert [found["status"] for found in many["scenes"]] == ["mapped"]
    assert Path(many["scenes"][0]["files"]["class"]).is_file()
    (tmp_path / "broken.tif").write_text("no image")
    both = printed(
        capsys, "predict", checkpoint, scene, tmp_path / "broken.tif", tmp_path / "m", status=2
    )
    assert [found["status"] for found in both["scenes"]] == ["mapped", "failed"]


# train


def test_a_model_is_trained_on_the_command_line(make_dataset, tmp_path, capsys):
    folder = make_dataset()
    asked = [
        "train", str(folder), "glaciernet", str(tmp_path / "fit"), "--dates", "2023-08",
        "--set", "steps=4", "--set", "learning_rate=1e-2", "--set", "loss=focal",
        "--patch", "size=32", "--patch", "block_m=320",
    ]  # fmt: skip
    assert cli.main(asked) == 0
    assert "checkpoint.pt" in capsys.readouterr().out
    told = json.loads((tmp_path / "fit" / "fit.json").read_text(encoding="utf-8"))
    assert told["settings"]["learning_rate"] == 0.01
    assert told["settings"]["loss"] == "focal"
    assert told["dates"] == ["2023-08"]


def test_members_of_an_ensemble_map_together(make_dataset, tmp_path, capsys):
    folder, fits = make_dataset(), tmp_path / "fits"
    asked = ["train", str(folder), "glaciernet", str(fits), "--members", "2", "--set", "steps=2",
             "--patch", "size=32", "--patch", "block_m=320"]  # fmt: skip
    assert cli.main(asked) == 0
    assert capsys.readouterr().out.count("checkpoint.pt") == 2
    scene = next((folder / "images").rglob("*.tif"))
    assert cli.main(["predict", str(fits), str(scene), str(tmp_path / "maps")]) == 0
    assert [path.name for path in (tmp_path / "maps").glob("*_spread.tif")]
    (tmp_path / "empty").mkdir()
    left = fits / ".glaciernet-seed2.0123456789ab.partial"
    left.mkdir()
    (left / "checkpoint.pt").touch()
    assert len(cli._members(fits)) == 2
    shutil.copytree(fits / "glaciernet", tmp_path / "both" / "glaciernet")
    shutil.copytree(fits / "glaciernet", tmp_path / "both" / "threshold")
    capsys.readouterr()
    mixed = fails(capsys, "predict", str(tmp_path / "both"), str(scene), str(tmp_path / "maps"))
    assert "holds glaciernet, threshold, not one model's training" in mixed
    again = ["predict", str(tmp_path / "empty"), str(scene), str(tmp_path / "maps")]
    assert "holds no checkpoint.pt" in fails(capsys, *again)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--set", "step=3"], "did you mean 'steps'"),
        (["--set", "steps"], "write it as NAME=VALUE"),
        (["--set", "steps=[1"], "cannot be read"),
        (["--patch", "folder=x"], "--patch folder: known are"),
    ],
)
def test_mistakes_in_training_options_end_in_one_line(
    make_dataset, tmp_path, capsys, option, message
):
    assert cli.main(["train", str(make_dataset()), "glaciernet", str(tmp_path / "x"), *option]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()
