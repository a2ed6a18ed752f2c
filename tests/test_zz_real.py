"""The six notebooks on real imagery. Named so that it runs last: it takes minutes, once.

What a run has finished is kept in reports/ and not done again, by these tests either.
"""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import nbformat
import numpy as np
import pytest
import rasterio
import yaml

from glacier_utils import cli
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.imagery.clouds import CLOUD, cloud_mask
from glacier_utils.workflow import batch, notebooks, runs

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = ROOT / "notebooks" / "parameters"
SCORES = ["iou", "f1", "precision", "recall"]

pytestmark = pytest.mark.timeout(3600)


# Few small steps show as much of the way: of a score is asked only whether it is a number.
SHORT = {"steps": 41, "batch_size": 4}
CHANGES = {name: {"run": f"{name}_short", **SHORT} for name in ("everest", "athabasca")}
CHANGES["everest"]["models"] = ["threshold", "random_forest", "glaciernet"]
CHANGES["athabasca"]["models"] = ["threshold", "gradient_boosting", "unet-resnet18"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run a parameter set, once; give its run."""
    done: dict[str, runs.Run] = {}

    def run(name: str) -> runs.Run:
        if name not in done:
            values = yaml.safe_load((PARAMETERS / f"{name}.yaml").read_text("utf-8"))
            own = tmp_path_factory.mktemp(name) / "parameters.yaml"
            own.write_text(yaml.safe_dump(values | CHANGES[name]), "utf-8")
            (outcome,) = batch.run_all([own], root=ROOT)
            assert outcome.status == "finished", outcome.error
            done[name] = outcome.run
        return done[name]

    return run


def printed(path: Path) -> str:
    """What the cells of an executed notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("name", ["everest", "athabasca"])
def test_all_notebooks_run_on_real_imagery(real_data, finished, name):
    if not (PARAMETERS / f"{name}.yaml").exists():
        pytest.skip(f"there is no parameter set {name}")
    run = finished(name)
    expected = [path.stem for path in notebooks.notebook_paths(ROOT)]
    assert sorted(path.stem for path in run.folder.glob("0*.html")) == expected
    assert not list(run.folder.glob("*.failed.ipynb"))
    assert (run.folder / "index.html").exists()
    assert list(run.read_record()["steps"]) == expected
    for folder, pattern in ((run.maps, "*.tif"), (run.maps, "*.gpkg"), (run.figures, "*.png")):
        assert list(folder.glob(pattern)), pattern


@pytest.mark.parametrize("name", ["everest", "athabasca"])
def test_every_model_has_finite_scores_on_real_imagery(real_data, finished, name):
    if not (PARAMETERS / f"{name}.yaml").exists():
        pytest.skip(f"there is no parameter set {name}")
    table = finished(name).read_table("spatial")
    assert set(table["reference"]) == {"labels"}  # nobody knows the truth
    assert set(table["area"]) == set(finished(name).read_record()["parameters"]["test_areas"])
    assert table[SCORES].notna().all(axis=None)
    assert table[SCORES].ge(0).all(axis=None)
    assert table[SCORES].le(1).all(axis=None)
    assert set(table["model"]) >= set(CHANGES[name]["models"])


def test_one_date_has_nothing_to_compare(real_data, finished):
    run = finished("everest")
    text = printed(run.folder / "05_temporal_comparison.ipynb")
    assert "nothing to compare" in text
    assert not (run.metrics / "temporal_causes.csv").exists()


def test_a_real_scene_without_outlines_is_checked_and_masked(real_data, capsys):
    """Nuuk: 1830 x 1830 px of West Greenland, a third cloud, with a scene classification."""
    assert cli.main(["check", "nuuk"]) == 0
    assert "1830x1830" in capsys.readouterr().out
    data = open_dataset("nuuk", root=ROOT)
    date = "2020-08-31"
    source = data.source("tile", date)
    assert data.radiometry("tile", date).ok

    scl = cloud_mask(source, scl=data.scene_classification("tile", date))
    cloud = scl.read() == CLOUD
    assert cloud.sum() * source.grid.pixel_area_km2 == pytest.approx(1953, rel=0.02)


def test_a_real_tile_of_another_region_goes_through_the_notebook_of_mosaics(real_data, finished):
    """What `nuuk.yaml` asks for, by a network trained on real Sentinel-2, not on the sample."""
    run = finished("athabasca")
    path = notebooks.notebook_paths(ROOT)[-1]
    values = run.read_record()["parameters"]
    values = {name: values[name] for name in notebooks.notebook_parameters(path)}
    target = run.folder / "06_nuuk.ipynb"
    notebooks._execute_one(path, target, values | {"large_scene": "nuuk"}, ROOT, [])
    assert "mapping nuuk" in printed(target)
    image = open_dataset("nuuk", root=ROOT).source("tile", "2020-08-31").read()
    with rasterio.open(run.maps / "nuuk_probability.tif") as result:
        steps = result.read(1)
        assert (result.scales, result.nodata) == ((0.004,), 255)
    assert ((steps != 255) == image.valid).all()
    # Whatever a network trained on one glacier of Canada says here, it says something. (How sure it
    # is of it differs between processors.)
    assert steps[image.valid].max() <= 250
    assert len(np.unique(steps[image.valid])) > 1
    outlines = gpd.read_file(run.maps / "nuuk_outlines.gpkg", layer="glims_polygons")
    assert outlines.geometry.is_valid.all()
    assert set(outlines["src_date"].dt.strftime("%Y-%m-%d")) == {"2020-08-31"}
    assert (run.figures / "map_nuuk.png").exists()
