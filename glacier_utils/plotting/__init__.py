"""How it looks: figures and interactive maps, from arrays and tables, never from files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
