"""What YAML may say: one strict model for each kind of part file, and for the settings of a run."""

import lazy_loader

# what other rooms may use, imported when it is: see __init__.pyi
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
