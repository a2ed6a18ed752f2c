from .sample import make_sample as make_sample
