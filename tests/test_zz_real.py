"""The six notebooks on real imagery. Named so that it runs last: it takes minutes, once.

What a run has finished is kept in reports/ and not done again, by these tests either.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from glacier_utils import batch, runs

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = ROOT / "notebooks" / "parameters"
SCORES = ["iou", "f1", "precision", "recall"]

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def finished():
    """Run a parameter set, once; give its run."""
    done: dict[str, runs.Run] = {}

    def run(name: str) -> runs.Run:
        if name not in done:
            (done[name],) = batch.run_all([PARAMETERS / f"{name}.yaml"], root=ROOT)
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
    expected = [path.stem for path in batch.notebook_paths(ROOT)]
    assert sorted(path.stem for path in run.folder.glob("0*.html")) == expected
    assert not list(run.folder.glob("*.failed.ipynb"))
    assert (run.folder / "index.html").exists()
    assert list(run.recorded()["steps"]) == expected
    for folder, pattern in ((run.maps, "*.tif"), (run.maps, "*.gpkg"), (run.figures, "*.png")):
        assert list(folder.glob(pattern)), pattern


@pytest.mark.parametrize("name", ["everest", "athabasca"])
def test_every_model_has_finite_scores_on_real_imagery(real_data, finished, name):
    if not (PARAMETERS / f"{name}.yaml").exists():
        pytest.skip(f"there is no parameter set {name}")
    table = finished(name).table("spatial")
    assert set(table["reference"]) == {"labels"}  # nobody knows the truth
    assert set(table["area"]) == set(finished(name).recorded()["parameters"]["test_areas"])
    assert table[SCORES].notna().all(axis=None)
    assert table[SCORES].ge(0).all(axis=None)
    assert table[SCORES].le(1).all(axis=None)
    if name == "everest":
        assert table["model"].nunique() >= 5


def test_one_date_has_nothing_to_compare(real_data, finished):
    run = finished("everest")
    text = printed(run.folder / "05_temporal_comparison.ipynb")
    assert "nothing to compare" in text
    assert not (run.metrics / "temporal_causes.csv").exists()
