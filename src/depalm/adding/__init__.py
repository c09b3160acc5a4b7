"""The YAML of a model or a dataset, from what it says of itself."""

import lazy_loader

# what other rooms may use, imported when it is: see __init__.pyi
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
