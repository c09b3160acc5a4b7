"""DePALM: adapters between frozen perceptual backbones and frozen LLMs, compared from a cache.

Shapes in this package: B batch, L layers, T tokens, D width, K queries, S sequence.
"""

__version__ = "0.1.0"
