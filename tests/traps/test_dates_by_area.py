"""Traps of kind 14: areas with dates of their own, more than two dates, a test over time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from traps.tools import AT, BANDS, Command, iou, numbers, outlines, scene, told, trap, write

from glacier_utils import datasets, evaluation
from glacier_utils.datasets import open_dataset, open_store
from glacier_utils.models.checkpoint import load_checkpoint
from glacier_utils.prediction.mapper import predict_patches

pytestmark = pytest.mark.usefixtures("one_thread")
AWAY = AT @ AT.translation(1000, 0)  # a place with a gap to the first
OVER_TIME = r"of its ground lies in area test too, at other dates:.*test over time, not over space"


def dataset(folder: Path, dates: dict[str, Sequence[str]], *, apart: bool = True) -> Path:
    """Write areas of 256 px, each with its dates, on one ground or the test area apart."""
    reflectance, truth = scene(256)
    places = {area: AWAY if apart and area == "test" else AT for area in dates}
    lines = ["name: trap", f"bands: [{', '.join(BANDS)}]", "outlines: ice.gpkg",
             "reflectance: {scale: 10000, offset: -1000, nodata: 0}", "areas:"]  # fmt: skip
    for number, (area, own) in enumerate(dates.items()):
        lines.append(f"  {area}:")
        for place, date in enumerate(own):
            image = reflectance * (1 - 0.01 * place - 0.005 * number)  # another light
            write(folder / area / f"{date}.tif", numbers(image), places[area], names=BANDS)
            lines.append(f"    {date}: {area}/{date}.tif")
    shapes = pd.concat([outlines(truth, place) for place in {*places.values()}])
    shapes.to_file(folder / "ice.gpkg")
    (folder / "dataset.yaml").write_text("\n".join(lines) + "\n")
    return folder


def train(glacier: Command, folder: Path, *more: str, says: str = "") -> tuple[str, object]:
    """Train the threshold and score it on the test area, at the date nearest to 2023-08."""
    done = glacier("train", folder, "threshold", folder / "fit", "--patch", "size=32",
                   "--patch", "block_m=960", *more)  # fmt: skip
    if done.status:
        return told(done, says=says), None
    content = json.loads((folder / "fit" / "fit.json").read_text())
    store = open_store(folder / "patches" / content["store"])
    positions = evaluation.patches_to_test(store, "2023-08")
    model = load_checkpoint(folder / "fit" / "checkpoint.pt")
    found = predict_patches(model, store.images, positions=positions) >= model.threshold
    score = iou(found.astype(np.uint8), np.asarray(store.labels[positions]))
    return told(done, says=says, right=score > 0.99), store


@trap(14, "train: train and test areas have no date in common", "right")
def test_dates_of_their_own(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, {"train": ["2021-08", "2022-08"], "test": ["2023-09"]})
    happened, store = train(glacier, folder)
    assert set(store.index["date"][store.index["split"] == "test"]) == {"2023-09"}
    assert evaluation.areas_over_time(store, store.select(split="test")) == []
    return happened


@trap(14, "train: four dates, two of them asked for", "right")
def test_more_than_two_dates(tmp_path: Path, glacier: Command) -> str:
    dates = ["2020-08", "2021-08", "2022-08", "2023-08"]
    folder = dataset(tmp_path, {"train": dates, "test": ["2023-08"]})
    happened, store = train(glacier, folder, "--dates", "2020-08", "2022-08")
    assert set(store.index["date"]) == {*dates}
    assert json.loads((folder / "fit" / "fit.json").read_text())["dates"] == [dates[0], dates[2]]
    return happened


@trap(14, "train: the test area is the ground of training at a later date", "right")
def test_over_time(tmp_path: Path, glacier: Command) -> str:
    areas = {"train": ["2021-08", "2022-08"], "test": ["2023-08"]}
    happened, store = train(glacier, dataset(tmp_path, areas, apart=False))
    positions = store.select(split="test")
    assert len(positions) == 64  # all of the ground
    assert len(store.select(split="train")) > 64
    assert evaluation.areas_over_time(store, positions) == ["test"]
    return happened


@trap(14, "check: the test area is the ground of training at a later date", "warned")
def test_check_over_time(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, {"train": ["2021-08"], "test": ["2023-08"]}, apart=False)
    return told(glacier("check", folder), says=OVER_TIME)


@trap(14, "check: the test area is the ground of training at the same date", "refused")
def test_check_same_date(tmp_path: Path, glacier: Command) -> str:
    areas = {"train": ["2022-08", "2023-08"], "test": ["2023-08"]}
    folder = dataset(tmp_path, areas, apart=False)
    says = r"which cannot both train and test; cut one of them with `bounds`, or give it dates"
    return told(glacier("check", folder), says=says)


@trap(14, "train: the test area is the ground of training at the same date", "refused")
def test_train_same_date(tmp_path: Path, glacier: Command) -> str:
    areas = {"train": ["2022-08", "2023-08"], "test": ["2023-08"]}
    folder = dataset(tmp_path, areas, apart=False)
    says = r"shares ground with a test area\); cut one of the two with `bounds`, or test on dates"
    happened, _ = train(glacier, folder, says=says)
    assert not (folder / "fit").exists()
    return happened


@trap(14, "train: a date that no area has", "refused")
def test_a_date_that_is_not_there(tmp_path: Path, glacier: Command) -> str:
    folder = dataset(tmp_path, {"train": ["2021-08"], "test": ["2023-08"]})
    return train(glacier, folder, "--dates", "2020-08", says="no date 2020-08; it has 2021-08")[0]


def test_the_notebooks_choose_dates_by_area(tmp_path: Path) -> None:
    areas = {"train": ["2020-08", "2021-08", "2022-08"], "test": ["2023-07", "2023-09-20"]}
    data = open_dataset(dataset(tmp_path, areas))
    names = [*data.areas]
    assert datasets.main_dates(data, names, "2023-09-20") == {
        "train": "2022-08", "test": "2023-09-20"
    }  # fmt: skip
    chosen = datasets.area_dates(data, names, "2023-07", ["", "2020-08"])
    assert chosen == {"train": ["2020-08", "2022-08"], "test": ["2023-07"]}
    store = datasets.build_patches(data, areas=names, dates=chosen, size=32, block_m=960)
    pairs = set(zip(store.index["area"], store.index["date"], strict=True))
    assert pairs == {("train", "2020-08"), ("train", "2022-08"), ("test", "2023-07")}
    with pytest.raises(Exception, match="date '2019-08' is not there"):
        datasets.area_dates(data, names, "2019-08")
