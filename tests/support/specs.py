"""Part files in memory as specs."""

from collections.abc import Mapping
from typing import Any

from depalm.specs import BackboneSpec


def backbone_spec(content: Mapping[str, Any]) -> BackboneSpec:
    """The spec of a backbone's YAML; names are not looked up in registries."""
    return BackboneSpec.model_validate(dict(content))
