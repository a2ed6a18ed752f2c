"""What is killed at random moments ends with the results of undisturbed work: a long trial by hand.

    KILLS=50 python -m pytest tests/test_kills.py -s -k "work or predictions"

Its first trial takes the six notebooks, and as many hours; the second two notebooks that train,
write, predict and export. Short ones are part of each test run: workflow/test_nothing_lost.py,
prediction/test_many_scenes.py, training/test_module.py.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import psutil
import pytest
import rasterio
import torch
from notebook_project import write_notebook, write_set

from glacier_utils.workflow import notebooks, runs

KILLS = int(os.environ.get("KILLS", "0"))
pytestmark = [
    pytest.mark.skipif(not KILLS, reason="takes an hour: KILLS=50 asks for it"),
    pytest.mark.timeout(6 * 3600),
]
TINY = {
    "dataset": "tiny", "patch_size": 32, "patch_stride": 32, "block_m": 640.0, "pixels": 400,
    "models": ["threshold", "random_forest", "unet-resnet18"], "steps": 60, "window": 64,
    "overlap": 16, "min_area_km2": 0.0,
}  # fmt: skip
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "glacier_utils.cli", *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)  # fmt: skip


def kills(
    work: Callable[[], subprocess.Popen], folder: Path, longest_s: float, seed: int
) -> Iterator[tuple[str, set[str]]]:
    """Start work again and again, kill it at random moments; yield what, and what was written.

    Every other time, by chance, the clock starts when something is written to the folder: on a busy
    machine most moments would else fall into the start. After ``KILLS`` it is left alone.
    """
    moments, count = random.Random(seed), 0
    while True:
        before, process = written(folder), work()
        if count < KILLS and moments.random() < 0.5:
            while process.poll() is None and written(folder) == before:
                time.sleep(0.1)
        try:
            process.wait(moments.uniform(0, longest_s) if count < KILLS else None)
            yield "", set()
            continue
        except subprocess.TimeoutExpired:
            pass
        there, whole = written(folder), psutil.Process(process.pid)
        children = whole.children(recursive=True)
        what = moments.choice(["the program", "a child", "both"] if children else ["the program"])
        chosen = {"the program": [whole], "both": [whole, *children]}
        for one in chosen.get(what) or [moments.choice(children)]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        process.wait()
        count += 1
        yield what, there


def written(folder: Path) -> set[str]:
    """Return the names of all that lies in a folder; as set, for files come and go meanwhile."""
    return {name for found in os.walk(folder) for part in found[1:] for name in part}


def results(folder: Path) -> dict[str, object]:
    """Return all that counts of a run's or a prediction's files, in a form that compares."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if path.suffix == ".csv" and path.name not in ("history.csv", "scenes.csv"):
            text = path.read_text().replace(f"reports/{folder.name}/", "")
            found[name] = pd.read_csv(pd.io.common.StringIO(text)).drop(
                columns="seconds", errors="ignore"
            )
        elif path.suffix == ".tif":
            with rasterio.open(path) as file:
                found[name] = file.read()
        elif path.suffix == ".gpkg":
            found[name] = gpd.read_file(path, layer="glims_polygons").geometry.to_wkb().to_list()
        elif path.name == "checkpoint.pt":
            weights = torch.load(path, weights_only=True)["weights"]
            found[name] = {key: value.numpy() for key, value in weights.items()}
        elif not hidden and path.suffix in (".png", ".html", ".ipynb", ".md"):
            found[name] = "there"
        assert not hidden, f"left: {name}"
    return found


def assert_same(one: dict[str, object], two: dict[str, object]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, two[name])
        elif isinstance(value, np.ndarray | dict):
            np.testing.assert_equal(value, two[name])
        else:
            assert value == two[name], name


def kill_runs(root: Path, **values: object) -> None:
    """Kill runs of the notebooks in a project; compare each that is finished in the end.

    Each start is killed within twice the time that the longest notebook takes on this machine.
    """
    assert start("run", write_set(root, "whole", **values)).wait() == 0
    whole = results(root / "reports" / "whole")
    record = runs.Run(root / "reports" / "whole").read_record()
    seconds = {name: step["seconds"] for name, step in record["steps"].items()}
    print(seconds, flush=True)
    path, folder = write_set(root, "killed", **values), root / "reports" / "killed"
    where: Counter = Counter()
    finished = 0
    for what, there in kills(
        lambda: start("run", path), folder, 2 * max(seconds.values()), seed=18
    ):
        status = runs.Run(folder).read_record().get("status")
        if what:
            (step,) = [name[:2] for name in there if name.endswith(".running.ipynb")] or ["between"]
            (running,) = [*folder.glob("*.running.ipynb"), None][:1]
            cell = f" cell {notebooks._stopped_at(running)}" if running else ""
            where[what, step] += 1
            print(f"{sum(where.values())}: {what} in {step}{cell}: {status}", flush=True)
            assert status != "finished" or not running
        else:
            assert status == "finished"
        if status == "finished":
            assert_same(results(folder), whole)
            finished += 1
            shutil.rmtree(folder)
            # What training and preprocessing keep for later is to be killed as well.
            shutil.rmtree(root / "data" / "tiny" / "patches")
            if sum(where.values()) >= KILLS:
                break
    print(f"{sum(where.values())} kills, {finished} runs finished and compared")
    print(pd.Series(where).unstack(0, fill_value=0).to_string())


def test_the_six_notebooks_killed_at_random_moments_end_with_the_same_results(six):
    kill_runs(six, **TINY)


TRAIN = """\
from glacier_utils import datasets, training, workflow
report, data = workflow.open_run(run), workflow.open_data("tiny")
store = datasets.build_patches(data, size=32, block_m=640.0)
report.record_patch_store(store)"""
FIT = """\
settings = training.Settings(steps=40, batch_size=4)
models = ["threshold", "unet-resnet18"]
fits = training.fit_all(models, [0], store, report.models, dates=["2023-08"], settings=settings)
report.save_table(training.summary(fits), "models")"""
MAP = """\
from glacier_utils import prediction, training, workflow
from glacier_utils.models import load_checkpoint
report, data = workflow.open_run(run), workflow.open_data("tiny")
segmenter = load_checkpoint(training.checkpoint(report.read_table("models"), "unet-resnet18"))
products, how = {}, {"window": 64, "overlap": 16, "min_area_km2": 0.0}"""
EXPORT = """\
for area in data.areas:
    for date in data.dates(area):
        products[area, date] = prediction.write_products(
            segmenter, data.source(area, date), report.maps, f"{area}_{date}", date=date, **how
        )
report.save_table(prediction.product_table(products), "products")"""


def test_work_killed_at_random_moments_ends_with_the_same_results(six):
    for path in (six / "notebooks").glob("*.ipynb"):
        path.unlink()
    parameters = 'run = "default"  # name\ndataset = "tiny"  # of the patches'
    for name, cells in (("01_train", (TRAIN, FIT)), ("02_map", (MAP, EXPORT))):
        write_notebook(six / "notebooks" / f"{name}.ipynb", name, parameters, *cells)
    kill_runs(six)


def test_predictions_of_many_scenes_killed_at_random_moments_end_with_the_same_maps(
    tmp_path, write_tif
):
    from glacier_utils.models.checkpoint import Segmenter, save_checkpoint

    bands = ("red", "green", "blue", "nir")
    torch.manual_seed(0)
    model = save_checkpoint(
        tmp_path / "unet.pt", Segmenter("unet-resnet18", bands, [0.2] * 4, [0.1] * 4)
    )
    rng = np.random.default_rng(0)
    paths = [tmp_path / "scenes" / f"s{number}.tif" for number in range(8)]
    for number, path in enumerate(paths):
        values = rng.integers(1000, 6000, (4, 384, 384), dtype=np.uint16)
        write_tif(path, values, col=number * 300, nodata=0)
    arguments = ("predict", model, *paths)
    began = time.monotonic()
    assert start(*arguments, tmp_path / "whole").wait() == 0
    longest_s = 1.2 * (time.monotonic() - began)
    whole, out = results(tmp_path / "whole"), tmp_path / "out"
    assert len(pd.read_csv(tmp_path / "whole" / "scenes.csv")) == len(paths)
    where, finished = Counter(), 0
    work = lambda: start(*arguments, out, "--workers", 2)  # noqa: E731
    for what, there in kills(work, out, longest_s, seed=19):
        if what:
            maps = [name for name in there if name.endswith("_class.tif") and name[0] != "."]
            where[what, f"{len(maps)} maps"] += 1
            print(f"{sum(where.values())}: {what}: {dict(where)}", flush=True)
        table = out / "scenes.csv"
        if what in ("", "a child") and table.exists():
            if (pd.read_csv(table)["status"] != "failed").all():
                assert_same(results(out), whole)
                finished += 1
            shutil.rmtree(out)
            if sum(where.values()) >= KILLS:
                break
    print(f"{sum(where.values())} kills within {longest_s:.0f} s each, {finished} compared,",
          f"{time.monotonic() - began:.0f} s in all")  # fmt: skip
    print(pd.Series(where).unstack(0, fill_value=0).to_string())
