"""Traps of kind 15: what once ended in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import rasterio
from affine import Affine
from traps.tools import (
    Command,
    Told,
    iou,
    manifest,
    mapped,
    numbers,
    outlines,
    scene,
    sound,
    told,
    trap,
    write,
)

from glacier_utils import cli
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation.bootstrap import score_interval

LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'
GEOCENTRIC = "EPSG:4978"


def labelled(folder: Path) -> Path:
    """Make a dataset of a scene and a mask."""
    image, truth = scene(128)
    write(folder / "scene.tif", numbers(image))
    write(folder / "l.tif", truth, nodata=255)
    return manifest(folder, "{images: scene.tif, labels: l.tif}")


def _other_proj(name: str, tmp_path: Path) -> str:
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj" / "proj.db").write_text("of another version")
    sound(tmp_path)
    command = [sys.executable, "-m", "glacier_utils.cli", "check", str(tmp_path)]
    environment = {**os.environ, name: str(tmp_path / "proj")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = Told(done.returncode, done.stdout, done.stderr)
    return told(found, right="no problems found" in found.text)


@trap(15, "PROJ_LIB of another installation", "right")
def test_proj_lib(tmp_path: Path) -> str:
    return _other_proj("PROJ_LIB", tmp_path)


@trap(15, "PROJ_DATA of another installation", "right")
def test_proj_data(tmp_path: Path) -> str:
    return _other_proj("PROJ_DATA", tmp_path)


@trap(15, "a scene in a local CRS: mapped without place", "warned")
def test_local_crs(tmp_path: Path, predict: Command) -> str:
    image, truth = scene(128)
    write(tmp_path / "scene.tif", numbers(image), crs=LOCAL)
    done = predict(tmp_path / "scene.tif")
    right = iou(mapped(tmp_path / "out"), truth) > 0.99
    return told(done, says="scene.tif: has no CRS.*gdal_edit", right=right)


@trap(15, "a scene in coordinates from the Earth's centre: mapped without place", "warned")
def test_geocentric_crs(tmp_path: Path, predict: Command) -> str:
    image, truth = scene(128)
    write(tmp_path / "scene.tif", numbers(image), crs=GEOCENTRIC)
    done = predict(tmp_path / "scene.tif")
    right = iou(mapped(tmp_path / "out"), truth) > 0.99
    return told(done, says="scene.tif: has no CRS.*gdal_edit", right=right)


@trap(15, "check: an image in a local CRS, outlines in another", "refused")
def test_local_crs_with_outlines(tmp_path: Path, glacier: Command) -> str:
    done = glacier("check", sound(tmp_path, crs=LOCAL))
    return told(done, says="the image has no CRS, so outlines cannot be laid on it; georeference")


@trap(15, "train: outlines in a local CRS", "refused")
def test_outlines_in_a_local_crs(tmp_path: Path, glacier: Command) -> str:
    sound(tmp_path)
    _, truth = scene(128)
    table = outlines(truth).set_crs(LOCAL, allow_override=True)
    table.to_file(tmp_path / "o.gpkg")
    done = glacier("train", tmp_path, "threshold", tmp_path / "fit")
    return told(done, says="o.gpkg: its CRS is a local one.*export the outlines in a projected CRS")


@trap(15, "a CRS in degrees for coordinates in metres", "refused")
def test_metres_as_degrees(tmp_path: Path, predict: Command) -> str:
    image, _ = scene(128)
    path = write(tmp_path / "scene.tif", numbers(image), crs="EPSG:4326")
    done = predict(path)
    return told(done, says="scene.tif: its corner at 500000, 6780000 is no place in its CRS")


@trap(15, "a georeference that is not a number", "refused")
def test_no_number_for_a_place(tmp_path: Path, predict: Command) -> str:
    image, _ = scene(128)
    nowhere = Affine(10, 0, float("nan"), 0, -10, 6_780_000)
    path = write(tmp_path / "scene.tif", numbers(image), transform=nowhere)
    done = predict(path)
    return told(done, says="scene.tif: its corner at nan, 6780000 is no place.*gdal_edit")


@contextmanager
def printing_to(file: int, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> Iterator:
    """Let the command print to an open file."""
    with os.fdopen(file, "w", encoding=encoding) as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield stream


@trap(15, "output into a pipe that is closed, as by `head`", "right")
def test_closed_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    ours, theirs = os.pipe()
    os.close(ours)
    with printing_to(theirs, monkeypatch):
        status = cli.main(["models"])
    # The pipe's status is that of `head`; of this side, a shell expects 141.
    return told(Told(0, "", capsys.readouterr().err), right=status == 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@trap(15, "output to a full disk", "refused")
def test_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    with printing_to(os.open("/dev/full", os.O_WRONLY), monkeypatch):
        status = cli.main(["models"])
    error = capsys.readouterr().err
    return told(Told(status, "", error), says="^glacier: output could not be written: No space")


@trap(15, "a terminal that knows ASCII alone", "right")
def test_ascii_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "grønland"
    folder.mkdir()
    image, _ = scene(128)
    write(folder / "scene.tif", numbers(image))
    manifest(folder, "scene.tif", "outlines: søer.gpkg")
    file = os.open(tmp_path / "out.txt", os.O_WRONLY | os.O_CREAT)
    with printing_to(file, monkeypatch, "ascii"):
        status = cli.main(["check", str(folder)])
    text = (tmp_path / "out.txt").read_text("ascii")
    # The outlines are not there, which is what it has to say.
    return told(Told(0, "", ""), right=status == 2 and r"s\xf8er.gpkg: no such file" in text)


@trap(15, "a score that does not exist", "refused")
def test_unknown_score() -> str:
    counts = pd.DataFrame({"tp": [8, 9], "fp": 1, "fn": 1, "tn": 9, "block": list("ab")})
    try:
        score_interval(counts, score="iuo")
    except GlacierError as error:
        return told(Told(2, "", str(error)), says="no score is called 'iuo'; did you mean 'iou'")
    return "wrong: scored"


@pytest.mark.parametrize("pair", ["block_m=x", "seed=x", "areas=5", "max_cloud=.nan", "stride=[1]"])
def test_patches_of_a_wrong_kind(pair: str, tmp_path: Path, glacier: Command) -> None:
    done = glacier("train", labelled(tmp_path), "threshold", tmp_path / "fit", "--patch", pair)
    assert told(done, says="--patch|area '5' is not there") == "refused"


@trap(15, "--patch with text where a number belongs", "refused")
def test_text_for_a_number(tmp_path: Path, glacier: Command) -> str:
    arguments = ("--patch", "size=large")
    done = glacier("train", labelled(tmp_path), "threshold", tmp_path / "fit", *arguments)
    return told(done, says="--patch size=large: must be a number")


@trap(15, "--patch dates=2023-08-24, which YAML takes for a date", "refused")
def test_date_for_text(tmp_path: Path, glacier: Command) -> str:
    arguments = ("--patch", "dates=2023-08-24")
    done = glacier("train", labelled(tmp_path), "threshold", tmp_path / "fit", *arguments)
    return told(done, says="date '2023-08-24' is not there; did you mean '2023-08'")


@trap(15, "a fit whose record was cut short: fitted again", "right")
def test_record_cut_short(tmp_path: Path, glacier: Command) -> str:
    folder, fit = labelled(tmp_path), tmp_path / "fit"
    cut = ("--patch", "size=32", "--patch", "block_m=320")
    glacier("train", folder, "threshold", fit, *cut)
    record = fit / "fit.json"
    whole = record.read_text("utf-8")
    record.write_text(whole[: len(whole) // 2], "utf-8")
    again = glacier("train", folder, "threshold", fit, *cut)
    return told(again, right=json.loads(record.read_text("utf-8"))["fingerprint"] in whole)


@trap(15, "OUT forgotten: the last scene stands in its place", "refused")
def test_forgotten_out(tmp_path: Path, model: Path, glacier: Command) -> str:
    image, _ = scene(128)
    first, last = (write(tmp_path / f"{name}.tif", numbers(image)) for name in "ab")
    before = last.read_bytes()
    done = glacier("predict", model, first, last)
    says = "b.tif: is there already and no map of this program; name another file as OUT"
    return told(done, says=says) if last.read_bytes() == before else "wrong: written over"


@trap(15, "OUT forgotten: the last product stands in its place", "refused")
def test_forgotten_out_of_products(tmp_path: Path, model: Path, glacier: Command) -> str:
    image, _ = scene(128)
    first = write(tmp_path / "a.tif", numbers(image))
    (tmp_path / "b.SAFE").mkdir()
    done = glacier("predict", model, first, tmp_path / "b.SAFE")
    if list((tmp_path / "b.SAFE").iterdir()):
        return "wrong: written into the product"
    return told(done, says="b.SAFE: is a product; name a folder for the maps as OUT")


@trap(15, "a map made again in its own place", "right")
def test_map_made_again(tmp_path: Path, model: Path, glacier: Command) -> str:
    image, truth = scene(128)
    path = write(tmp_path / "a.tif", numbers(image))
    glacier("predict", model, path, tmp_path / "ice.tif")
    done = glacier("predict", model, path, tmp_path / "ice.tif", "--flips")
    with rasterio.open(tmp_path / "ice_class.tif") as file:
        return told(done, right=iou(file.read(1), truth) > 0.99)


@trap(15, "a scene cut short in its pixels", "refused")
def test_scene_cut_short(tmp_path: Path, predict: Command) -> str:
    image, _ = scene(128)
    path = write(tmp_path / "scene.tif", numbers(image))
    path.write_bytes(path.read_bytes()[:60_000])
    done = predict(path)
    return told(done, says="scene.tif: cannot be read as a raster, it may be cut short.*fetch")


@trap(15, "a text file as checkpoint", "refused")
def test_text_as_checkpoint(tmp_path: Path, glacier: Command) -> str:
    image, _ = scene(128)
    path = write(tmp_path / "scene.tif", numbers(image))
    (tmp_path / "model.pt").write_text("hello")
    done = glacier("predict", tmp_path / "model.pt", path, tmp_path / "out")
    return told(done, says="model.pt: not a readable checkpoint")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no mapping; it needs at least `areas`"),
        (b"a,b\n1,2\n", "holds no mapping"),
        (b"areas:\n\ttrain:\n\t\t2023-08: scene.tif\n", "not readable YAML in line 2"),
        (b"name: Gr\xf8nland\nareas: {train: {2023-08: scene.tif}}\n", "cannot be read.*UTF-8"),
        ("areas: {train: {2023-08: scene.tif}}\n".encode("utf-16"), "cannot be read.*UTF-8"),
    ],
    ids=["empty", "csv", "tabs", "latin-1", "utf-16"],
)
def test_manifests(content: bytes, says: str, tmp_path: Path, glacier: Command) -> None:
    (tmp_path / "dataset.yaml").write_bytes(content)
    assert told(glacier("check", tmp_path), says=f"dataset.yaml: .*{says}") == "refused"


@trap(15, "a manifest in Latin-1", "refused")
def test_latin_manifest(tmp_path: Path, glacier: Command) -> str:
    content = "name: Grønland\nareas: {train: {2023-08: scene.tif}}\n"
    (tmp_path / "dataset.yaml").write_text(content, encoding="latin-1")
    done = glacier("check", tmp_path)
    return told(done, says="dataset.yaml: cannot be read.*save it as UTF-8")
