"""DePALM: adapters between frozen perceptual backbones and frozen LLMs, compared from a cache.

Shapes in this package: B batch, L layers, T tokens, D width, K queries, S sequence.
"""

import lazy_loader

__version__ = "0.1.0"

# what users import from the package itself, loaded when it is: see __init__.pyi
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
