"""Mapping glaciers in Sentinel-2 images with deep learning: the package behind the notebooks."""

import warnings

__version__ = "0.1.0"

# tqdm, imported by others in a notebook, asks for ipywidgets; its bars in plain text are what we
# want there, since they survive the export to HTML.
warnings.filterwarnings("ignore", message="IProgress not found")
