"""What a user brings: the manifest, its examination, and the patches that training reads."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
