"""From a checkpoint and a scene to a map: windows, whole scenes, many scenes, mosaics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
