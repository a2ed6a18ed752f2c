"""Run folders: everything that one run of the notebooks makes, under ``reports/<run>/``."""

from __future__ import annotations

import io
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
from IPython.display import Image, display

from glacier_utils.conventions import SYNTHETIC
from glacier_utils.datasets import dataset as dataset_module
from glacier_utils.datasets import store as store_module
from glacier_utils.errors import GlacierError
from glacier_utils.files import (
    atomic_path,
    file_name,
    locked,
    project_root,
    relative,
    write_csv,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from glacier_utils.prediction.scenes import LargeScene

FIGURE_DPI = 85
PACKAGES = (
    "torch",
    "segmentation-models-pytorch",
    "lightning",
    "rasterio",
    "numpy",
    "scikit-learn",
)
# A kernel notices that its parent was killed within a second, and holds the lock until then.
_KERNEL_ENDS_S = 5.0
SCORES = ("iou", "f1", "precision", "recall")
# Names stay names where they look like numbers.
_TEXT = dict.fromkeys(("area", "date", "dates", "model", "architecture", "against"), str)
# What figures are made of, as the dataset or patch store that was opened last says.
_shown = {"synthetic": False}
# Name of the dataset that was opened since the run was.
_opened = {"dataset": ""}


class RunBusy(GlacierError):  # noqa: N818 - says what is the matter
    """Another process is at work in the folder of a run."""


@dataclass(frozen=True)
class Run:
    """The folder of one run, with what the notebooks need to fill it.

    Attributes:
        folder: ``reports/<run>/``.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Name of the run, which is that of its folder."""
        return self.folder.name

    @property
    def models(self) -> Path:
        """Folder of the trained models, one folder per model."""
        return self.folder / "models"

    @property
    def maps(self) -> Path:
        """Folder of the georeferenced results."""
        return self.folder / "maps"

    @property
    def metrics(self) -> Path:
        """Folder of the tables."""
        return self.folder / "metrics"

    @property
    def figures(self) -> Path:
        """Folder of the figures as PNG files."""
        return self.folder / "figures"

    @contextmanager
    def locked(self) -> Iterator[list[int]]:
        """Keep other processes from executing this run; yields as `files.locked`.

        Raises:
            RunBusy: One does so already.
        """
        busy = f"run {self.name!r} is at work in another process; wait for it, or take a new name"
        with locked(self.folder / ".lock", RunBusy(busy), _KERNEL_ENDS_S) as held:
            yield held

    def save_figure(
        self, figure: matplotlib.figure.Figure, name: str, *, synthetic: bool | None = None
    ) -> None:
        """Write ``figure`` to ``figures/<name>.png``, show that file and close the figure.

        The picture keeps 256 colours, chosen for it: satellite images then take a third of the
        space in figures, notebooks and reports. Even colours, as in legends, stay what they are.
        "synthetic sample" stands above it where its image is made, not observed.

        Args:
            figure: Any; it is closed.
            name: Name of the file, without its ending.
            synthetic: whether it is; None: as of the dataset that was opened last.
        """
        if _shown["synthetic"] if synthetic is None else synthetic:
            figure.text(1, 1, SYNTHETIC, ha="right", va="bottom", fontsize=8, color="0.35")
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=FIGURE_DPI, bbox_inches="tight")
        plt.close(figure)
        target = self.figures / f"{file_name(name)}.png"
        with PIL.Image.open(drawn) as picture, atomic_path(target) as path:
            # The usual way, cuts at medians, gives colours of small fields to their neighbours.
            few = picture.convert("RGB").quantize(256, method=PIL.Image.Quantize.FASTOCTREE)
            few.save(path, optimize=True)
        display(Image(filename=str(target)))

    def save_table(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write ``table`` to ``metrics/<name>.csv`` and return it."""
        write_csv(self.metrics / f"{file_name(name)}.csv", table)
        return table

    def save_text(self, text: str, name: str) -> Path:
        """Write ``text`` to ``metrics/<name>``."""
        return write_text(self.metrics / file_name(name), text)

    def read_table(self, name: str) -> pd.DataFrame:
        """Read ``metrics/<name>.csv``, written by an earlier notebook of this run.

        Raises:
            GlacierError: It is not there yet or cannot be read.
        """
        path = self.metrics / f"{file_name(name)}.csv"
        if not path.exists():
            step = {"models": "03_model_training", "spatial": "04_spatial_evaluation"}.get(
                name, "the earlier notebooks"
            )
            raise GlacierError(f"{path}: not there yet; run {step} with run={self.name!r}")
        try:
            return pd.read_csv(path, dtype=_TEXT)
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise GlacierError(f"{path}: cannot be read ({reason}); run again") from error

    def record(self, **entries: Any) -> None:
        """Put ``entries`` into ``run.json`` in the place of what stood there under their names."""
        write_json(self.folder / "run.json", self.read_record() | entries)

    def read_record(self) -> dict[str, Any]:
        """Return the content of ``run.json``; empty before the first entry.

        Raises:
            GlacierError: The file is not valid JSON.
        """
        path = self.folder / "run.json"
        if not path.exists():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise GlacierError(
                f"{path}: not valid JSON ({error}); remove it and run again"
            ) from error
        if not isinstance(content, dict):
            raise GlacierError(f"{path}: not the record of a run; remove it and run again")
        return content

    def open_patch_store(self) -> store_module.PatchStore:
        """Open the patch store that notebook 02 of this run made.

        Raises:
            GlacierError: Notebook 02 has not run yet, or with another dataset than the one that is
                open; or the store was removed.
        """
        folder = self.read_record().get("patch_store")
        if folder is None:
            raise GlacierError(
                f"{self.folder}: no patches yet; run 02_preprocessing with run={self.name!r}"
            )
        # Written relative to the project where it lies inside, so that a run can be moved with it.
        store = store_module.open_store(project_root() / folder)
        own, opened = store.parameters.get("dataset"), _opened["dataset"]
        if own and opened and own != opened:
            raise GlacierError(
                f"{self.folder}: its patches are of dataset {own!r}, not of {opened!r}; give the "
                "notebook that dataset, or run 02_preprocessing again"
            )
        _shown["synthetic"] = store.parameters.get("synthetic", False)
        return store

    def record_patch_store(self, store: store_module.PatchStore) -> None:
        """Write into ``run.json`` which patch store the later notebooks of this run open."""
        self.record(patch_store=relative(store.folder), patch_key=store.key)


def open_run(name: str, root: str | Path | None = None) -> Run:
    """Return the run ``name``, its folder made and its provenance written.

    Args:
        name: A plain folder name under ``reports/``.
        root: The project's folder (default: found from the working directory).

    Raises:
        GlacierError: The name would lead out of ``reports/``.
    """
    check_name("run", name)
    _opened["dataset"] = ""
    run = Run(Path(root or project_root()) / "reports" / name)
    run.folder.mkdir(parents=True, exist_ok=True)
    if "provenance" not in run.read_record():
        run.record(run=name, provenance=provenance())
    return run


def check_name(what: str, name: str) -> None:
    """Check that ``name`` can be one folder's name on every system.

    Args:
        what: What it names, for the message.
        name: The name.

    Raises:
        GlacierError: It cannot.
    """
    if not name or name != file_name(name) or name[0] in ". " or name[-1] in ". ":
        raise GlacierError(
            f"{what} {name!r}: not a plain folder name; choose one such as 'default'"
        )


def open_data(name: str, root: str | Path | None = None) -> dataset_module.Dataset:
    """Open a dataset by name or path; the built-in ``sample`` is made when it is not there yet.

    A relative path starts at the project's folder, so that it means the same to the command line
    and to the notebooks.

    Args:
        name: Name of a folder under ``data/``, or path of a folder or manifest.
        root: The project's folder (default: found from the working directory).

    Raises:
        GlacierError: There is no such dataset, or its manifest is wrong.
    """
    root = Path(root or project_root())
    if name == "sample" and not (root / "data" / "sample" / dataset_module.MANIFEST).exists():
        from glacier_utils.synthetic.sample import make_sample

        make_sample(root / "data" / "sample")
    here = (root / name).is_file() or (root / name / dataset_module.MANIFEST).is_file()
    data = dataset_module.open_dataset(root / name if here else name, root=root)
    _shown["synthetic"], _opened["dataset"] = data.synthetic, data.name
    return data


def full_tile(data: dataset_module.Dataset, area: str, date: str) -> LargeScene:
    """Return an area of the size of a Sentinel-2 tile, made of its image and its mirror images."""
    from glacier_utils.prediction.scenes import LargeScene
    from glacier_utils.synthetic.sample import MirroredScene

    return LargeScene("full_tile", date, MirroredScene(data.source(area, date)))


def provenance() -> dict[str, Any]:
    """Say what made a run: time, versions, commit and the machine's make, without its name."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": versions(),
        "host": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        },
        "command": Path(sys.argv[0]).name,
    }


def versions() -> dict[str, str]:
    """Return the version of each package that the numbers depend on."""
    return {name: version(name) for name in PACKAGES}


def rounded(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """Return ``table`` with its float columns rounded for reading.

    Example:
        >>> print(rounded(pd.DataFrame({"iou": [0.81249], "patches": [12]})).to_string(index=False))
          iou  patches
        0.812       12
    """
    numbers = table.select_dtypes(np.floating).columns
    return table.assign(**{name: table[name].round(digits) for name in numbers})


def with_interval(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """Return a value and its interval as text, with the digits that the interval bears.

    The last digit is worth a third of the interval's width at most.

    Example:
        >>> with_interval(0.8061, 0.7684, 0.8438), with_interval(290.6, 272.4, 311.4)
        ('0.81 (0.77 to 0.84)', '291 (272 to 311)')
        >>> with_interval(-0.0124, -0.0201, -0.0047, signed=True)
        '-0.012 (-0.020 to -0.005)'
    """
    width = high - low
    digits = max(0, math.ceil(math.log10(3 / width))) if width > 0 else 2
    form = f"{'+z' if signed else 'z'}.{min(digits, 6)}f"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def _commit() -> str | None:
    """Return the project's commit, with a mark where files differ from it; None outside git."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=project_root(),
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError, GlacierError):
        return None
