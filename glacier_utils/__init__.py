"""Mapping glaciers in Sentinel-2 images with deep learning: the package behind the notebooks."""

__version__ = "0.1.0"
