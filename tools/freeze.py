"""Keep what the runs of the notebooks come to, to show that a change of form changes nothing.

    python tools/freeze.py run                # short trainings on the sample, everest, athabasca
    python tools/freeze.py keep FILE.json     # hash what those runs left
    python tools/freeze.py compare A.json B.json

Content is hashed, not files: pixels of rasters, geometries and attributes of vectors, tensors of
checkpoints, the text of tables without columns of seconds. Compare on one machine only: processors
round differently.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path.cwd()
SETS = {
    "freeze_sample": {"dataset": "sample", "epochs": 2, "patience": 2},
    "freeze_everest": {"from": "everest", "epochs": 3, "patience": 3},
    "freeze_athabasca": {"from": "athabasca", "epochs": 3, "patience": 3},
}
CHANGES_EACH_TIME = ("second", "minute", "cost", "memory", "speed", "mpx", "started")


def run() -> None:
    """Run the notebooks with each of the short parameter sets."""
    import yaml

    glacier = [sys.executable, "-m", "glacier_utils.cli"]
    subprocess.run([*glacier, "sample"], check=True)
    for name, values in SETS.items():
        values = dict(values)
        if base := values.pop("from", None):
            stored = (ROOT / "notebooks" / "parameters" / f"{base}.yaml").read_text("utf-8")
            values = yaml.safe_load(stored) | values
        target = ROOT / "reports" / f"{name}.yaml"
        target.write_text(yaml.safe_dump(values | {"run": name}), "utf-8")
        subprocess.run([*glacier, "run", str(target)], check=True)


def keep(target: str) -> None:
    """Write a hash of each result to ``target``."""
    kept = {}
    for name in SETS:
        folder = ROOT / "reports" / name
        for path in sorted(folder.rglob("*")):
            if path.is_file() and (digest := content(path)):
                kept[path.relative_to(ROOT / "reports").as_posix()] = digest
        record = json.loads((folder / "run.json").read_text("utf-8"))
        store = ROOT / record["patch_store"]
        for path in sorted(store.rglob("*")):
            if path.is_file() and (digest := content(path)):
                kept[f"{name}:store/{path.relative_to(store).as_posix()}"] = digest
    Path(target).write_text(json.dumps(kept, indent=1), "utf-8")
    print(f"{len(kept)} results kept")


def compare(before: str, after: str) -> int:
    """Print what differs; return 1 where anything does."""
    a, b = (json.loads(Path(path).read_text("utf-8")) for path in (before, after))
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            state = "gone" if name not in b else "new" if name not in a else "differs"
            print(f"{state}: {name}")
    same = sum(a.get(name) == digest for name, digest in b.items())
    print(f"{same} of {len(a)} equal")
    return int(a != b)


def content(path: Path) -> str | None:
    """Return the hash of what a file says, None for files that say when they were made."""
    import numpy as np

    sha = hashlib.sha256()
    suffix = path.suffix
    if suffix == ".csv":
        import pandas as pd

        table = pd.read_csv(path)
        moving = [c for c in table if any(word in c.lower() for word in CHANGES_EACH_TIME)]
        sha.update(table.drop(columns=moving).to_csv(index=False).encode())
    elif suffix == ".tif":
        import rasterio

        with rasterio.open(path) as raster:
            sha.update(repr((raster.profile["dtype"], raster.transform, raster.nodata)).encode())
            sha.update(raster.read().tobytes())
    elif suffix == ".gpkg":
        import geopandas as gpd
        import pyogrio

        for layer, kind in pyogrio.list_layers(path):
            table = pyogrio.read_dataframe(path, layer=layer)
            if kind is not None:
                table = gpd.GeoDataFrame(table)
                sha.update(b"".join(table.geometry.to_wkb()))
                table = table.drop(columns=table.geometry.name)
            moving = [
                c for c in table if c in ("anlys_time", "proc_desc", "styleQML", "update_time")
            ]
            sha.update(table.drop(columns=moving).to_csv(index=False).encode())
    elif suffix == ".pt":
        import torch

        stored = torch.load(path, map_location="cpu", weights_only=True)
        sha.update(repr([stored[key] for key in ("threshold", "temperature", "mean")]).encode())
        for key, tensor in sorted(stored["weights"].items()):
            sha.update(key.encode() + tensor.numpy().tobytes())
    elif suffix == ".npy":
        sha.update(np.load(path, mmap_mode="r").tobytes())
    elif suffix in (".png", ".md", ".parquet"):
        sha.update(path.read_bytes())
    else:
        return None
    return sha.hexdigest()[:16]


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    sys.exit({"run": run, "keep": keep, "compare": compare}[verb](*arguments))
