"""Glacier outlines: reading inventories, rasterizing them, and turning maps back into polygons."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
