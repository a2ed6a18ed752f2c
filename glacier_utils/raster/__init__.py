"""Grids, masks and files of pixels: where each pixel lies, and how rasters are read and written."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
