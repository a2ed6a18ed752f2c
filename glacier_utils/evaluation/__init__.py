"""How good a map is, with intervals: against labels, against truth, per glacier."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
