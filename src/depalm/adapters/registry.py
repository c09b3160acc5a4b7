"""The parts of adapters that YAML names: resamplers (`connector.resampler.type`), and injectors,
the places in the LLM (`inject.at`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from depalm.registry import Registry

if TYPE_CHECKING:
    from depalm.adapters.injectors import Injector
    from depalm.adapters.resamplers import RandomSubset, Resampler

RESAMPLERS: "Registry[Callable[..., Resampler | RandomSubset]]" = Registry(
    {
        "avg": "depalm.adapters.resamplers:Average",
        "max": "depalm.adapters.resamplers:Maximum",
        "linear": "depalm.adapters.resamplers:LinearReduction",
        "conv": "depalm.adapters.resamplers:Convolution",
        "qpmapper": "depalm.adapters.resamplers:MapperReduction",
        "random_patch": "depalm.adapters.resamplers:RandomPatch",
        "random_subset": "depalm.adapters.resamplers:RandomSubset",
    }
)
INJECTORS: "Registry[type[Injector]]" = Registry(
    {
        "none": "depalm.adapters.injectors:Nowhere",
        "l0": "depalm.adapters.injectors:AtInput",
        "inner": "depalm.adapters.injectors:AtInnerLayers",
        "cross_attention": "depalm.adapters.injectors:ByCrossAttention",
    }
)
