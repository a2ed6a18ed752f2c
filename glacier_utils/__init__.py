"""Mapping glaciers in Sentinel-2 images with deep learning: the package behind the notebooks."""

import os
import warnings

__version__ = "0.1.0"

# Threads that wait sleep instead of spinning. Where anything else runs on the machine, spinning
# makes training many times slower. Read by OpenMP when torch is imported, so it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# tqdm, imported by others in a notebook, asks for ipywidgets; its bars in plain text are what we
# want there, since they survive the export to HTML.
warnings.filterwarnings("ignore", message="IProgress not found")
