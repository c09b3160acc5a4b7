"""What a configuration costs before it runs: time, disk and memory of its stages."""

import lazy_loader

# what other rooms may use, imported when it is: see __init__.pyi
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
