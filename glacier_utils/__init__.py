"""Mapping glaciers in Sentinel-2 images with deep learning: the package behind the notebooks."""

import os
import warnings

__version__ = "0.1.0"

# Threads that wait sleep instead of spinning. Where anything else runs on the machine, spinning
# makes training many times slower. Read by OpenMP when torch is imported, so it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Features of a network are large and short-lived. In huge pages, where the system grants them,
# their memory costs a tenth of the page faults; large windows run faster. Read by torch.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# tqdm, imported by others in a notebook, asks for ipywidgets; its bars in plain text are what we
# want there, since they survive the export to HTML.
warnings.filterwarnings("ignore", message="IProgress not found")
