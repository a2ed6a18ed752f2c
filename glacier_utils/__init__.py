"""Mapping glaciers in Sentinel-2 images with deep learning: the package behind the notebooks.

Use it by its sub-packages, which load what they need when it is used::

    from glacier_utils import datasets, workflow

    run = workflow.open_run("default")
    dataset = datasets.open_dataset("data/sample")
"""

import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

__version__ = version("glacier-utils")

# Threads that wait soon sleep instead of spinning on. Where anything else runs on the machine, a
# millisecond of spinning, which is what OpenMP does by itself, makes training several times slower;
# a tenth of that bridges the gaps between two operations. Read when torch is imported, so it stands
# here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Features of a network are large and short-lived. In huge pages, where the system grants them,
# their memory costs a tenth of the page faults; large windows run faster. Read by torch.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# PROJ_DATA of another installation, as conda, QGIS and PostGIS set it, is of another version than
# the PROJ in rasterio, pyproj and pyogrio. Those from PyPI bring their tables and find them by
# themselves. Read when they are imported.
_rasterio = find_spec("rasterio")
if _rasterio and _rasterio.origin and (Path(_rasterio.origin).parent / "proj_data").is_dir():
    for _name in ("PROJ_DATA", "PROJ_LIB", "GDAL_DATA"):
        os.environ.pop(_name, None)
