"""A finished run in a project, as the notebooks would leave it, with known numbers and no work."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import PIL.Image

from glacier_utils.workflow import pages, runs

STEPS = ("03_model_training", "04_spatial_evaluation", "06_large_scale_mosaics")
FIGURES = {"03": "learning_curves", "04": "test_picture", "06": "map_test"}
TITLES = {"03": "03 Model training", "04": "04 Spatial evaluation", "06": "06 Large-scale mosaics"}
MODELS = ("threshold", "unet")
# Of each model and reference; the network's map is 20 % too large against the labels.
SCORES = {
    ("threshold", "labels"): {"iou": 0.7, "precision": 0.8, "recall": 0.8},
    ("threshold", "truth"): {"iou": 0.72, "precision": 0.8, "recall": 0.8},
    ("unet", "labels"): {"iou": 0.8, "precision": 0.75, "recall": 0.9},
    ("unet", "truth"): {"iou": 0.78, "precision": 0.75, "recall": 0.9},
}


def write_project(root: Path) -> Path:
    """Write the notebooks' names, which make a folder a project."""
    (root / "notebooks" / "parameters").mkdir(parents=True, exist_ok=True)
    for name in STEPS:
        (root / "notebooks" / f"{name}.ipynb").touch()
    return root


def write_run(
    root: Path, name: str = "default", *, area: str = "test", exported: bool = False, **parameters
) -> runs.Run:
    """Write a finished run of two models; the pages of its notebooks are empty or exported."""
    run = runs.open_run(name, root)
    known = {"dataset": "sample", "steps": 600, "train_dates": ["2023-08"], "run": name}
    run.record(
        parameters=known | parameters, dataset="sample", train_areas=["train"], test_areas=[area],
        status="finished", failure="", steps={step: {"seconds": 100.0} for step in STEPS},
    )  # fmt: skip
    for table, rows in tables(area).items():
        run.save_table(rows, table)
    run.save_text(
        "**What may be concluded**\n\n- Much.\n\n**What may not be concluded**\n\n- That a single "
        "area is right.\n",
        "conclusions_spatial.md",
    )
    for step in STEPS:
        picture = run.figures / f"{FIGURES[step[:2]]}.png"
        picture.parent.mkdir(exist_ok=True)
        pixels = np.full((300, 400, 3), 200, np.uint8)
        pixels[100:200, 100:250] = (86, 180, 233)
        PIL.Image.fromarray(pixels).save(picture)
        nbformat.write(notebook(step, picture, area), run.folder / f"{step}.ipynb")
        if exported:
            pages.export_html(run.folder / f"{step}.ipynb")
        else:
            (run.folder / f"{step}.html").touch()
    run.maps.mkdir(exist_ok=True)
    for ending in ("_class.tif", "_probability.tif", "_outlines.gpkg"):
        (run.maps / f"{runs.file_name(area)}_2023-08{ending}").touch()
    about = {"glacier:warnings": ["unlike the training"], "glacier:synthetic": True}
    item = run.maps / f"{runs.file_name(area)}_2023-08.json"
    item.write_text(json.dumps({"properties": about}))
    (run.maps / f"{runs.file_name(area)}.html").touch()
    return run


def tables(area: str) -> dict[str, pd.DataFrame]:
    """The tables that the pages read."""
    models = pd.DataFrame(
        {
            "model": MODELS,
            "architecture": MODELS,
            "kind": ["baseline", "network"],
            "dates": "2023-08",
            "seed": 0,
            "parameters": [3, 14_331_345],
            "seconds": [0.4, 99.0],
            "validation_iou": [0.77, 0.9],
        }
    )
    place = {"area": area, "date": "2023-08"}
    spatial = pd.DataFrame(
        place | {"model": model, "reference": reference, "seed": 0, "f1": 0.9} | own
        | {"iou_low": own["iou"] - 0.04, "iou_high": own["iou"] + 0.05}
        for (model, reference), own in SCORES.items()
    )  # fmt: skip
    paired = {"difference": 0.06, "low": -0.01, "high": 0.13, "verdict": "not distinguishable"}
    mapped = {"model": "unet, 2023-08", "area": area, "area_km2": 252.4, "low": 237, "high": 268}
    robustness = [
        {"model": "unet, 2023-08", "reference": reference} | place | SCORES["unet", reference]
        for reference in ("labels", "truth")
    ]
    return {
        "models": models,
        "spatial": spatial,
        "against_baselines": pd.DataFrame(
            [{"model": "unet", "against": "threshold", "reference": "truth"} | paired]
        ),
        "temporal": pd.DataFrame(
            [mapped | {"date": "2023-07"}, mapped | {"date": "2023-08"},
             mapped | {"date": "2023-08", "area": "train"}]
        ),
        "robustness": pd.DataFrame(robustness),
        "exploration_inventory": pd.DataFrame(
            [place | {"problems": "odd <b>patches</b>"}, place | {"problems": ""}]
        ),
        "patch_counts": patch_counts(area),
    }  # fmt: skip


def patch_counts(area: str, missed: int = 0) -> pd.DataFrame:
    """Counts of 4 x 4 patches in 2 x 2 blocks; of each the network misses ``missed`` px more."""
    rows = []
    for model in MODELS:
        for row in range(4):
            for col in range(4):
                wrong = 5 + row + 3 * col + (20 if model == "threshold" else missed)
                ice = 100 + 10 * row
                counts = {"tp": ice - wrong, "fp": 10, "fn": wrong, "tn": 900 - ice}
                block = f"{row // 2:02d}-{col // 2:02d}"
                place = {"area": area, "date": "2023-08", "row": 128 * row, "col": 128 * col}
                rows.append({"model": model, "reference": "truth", "block": block} | place | counts)
    return pd.DataFrame(rows)


def notebook(step: str, picture: Path, area: str) -> nbformat.NotebookNode:
    """An executed notebook with a take-home, a figure, a table, code and links."""
    new = nbformat.v4
    take_home = f"**Take-home.**\n\n- **unet** maps {area}.\n- Best network: **unet**."
    image = {"image/png": base64.b64encode(picture.read_bytes()).decode(), "text/plain": "<Image>"}
    wide = pd.DataFrame([[0.123] * 14], columns=[f"column {n}" for n in range(14)])
    table = {"text/html": wide.to_html(), "text/plain": "a table"}
    name = FIGURES[step[:2]].replace("map_test", "map_{area}")
    cells = [
        new.new_markdown_cell(f"# {TITLES[step[:2]]}\n\n**Question.** How well?\n"),
        new.new_code_cell(
            "takehome = display(1)",
            outputs=[new.new_output("display_data", {"text/markdown": take_home})],
        ),
        new.new_markdown_cell("## The picture & more\n\nSee [the docs](../docs/read_a_report.md)."),
        new.new_code_cell(
            f'report.save_figure(figure, f"{name}")',
            outputs=[new.new_output("display_data", image)],
        ),
        new.new_markdown_cell("## The scores"),
        new.new_code_cell("scores", outputs=[new.new_output("execute_result", table)]),
        new.new_code_cell("print(1)", outputs=[new.new_output("stream", text="1\n")]),
    ]
    return new.new_notebook(cells=cells)
