"""Part files in memory as specs."""

from collections.abc import Mapping
from typing import Any

from depalm.specs import BackboneSpec, LLMSpec
from depalm.specs.dataset import DatasetSource, RowsSpec


def backbone_spec(content: Mapping[str, Any]) -> BackboneSpec:
    """The spec of a backbone's YAML; names are not looked up in registries."""
    return BackboneSpec.model_validate(dict(content))


def llm_spec(content: Mapping[str, Any]) -> LLMSpec:
    """The spec of an LLM's YAML, which need not say where the LLM is."""
    place = {} if "source" in content else {"path": "llm"}
    return LLMSpec.model_validate({"version": 1, **place, **content})


def sources(*contents: Mapping[str, Any]) -> list[DatasetSource]:
    """Sources, right or wrong."""
    return [DatasetSource.model_construct(**content) for content in contents]


def rows_spec(content: Mapping[str, Any]) -> RowsSpec:
    """What decides the rows of a dataset, by its YAML, whose version may be missing."""
    rows = {key: content[key] for key in RowsSpec.model_fields if key in content}
    return RowsSpec.model_validate({"version": 1, **rows})
