"""adapter.json: what an adapter was made for, and how it was trained. No tensor is read here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depalm.adapters.errors import AdapterError
from depalm.errors import DamagedFile
from depalm.files import read_checked
from depalm.identity import model_source, token_identity
from depalm.specs import BackboneSpec, LLMSpec, MethodSpec

WEIGHTS, RECORD = "adapter.safetensors", "adapter.json"
# what tells where a model is from, but not what it is
DESCRIPTIVE = ("name", "uri", "revision")


class DamagedAdapter(AdapterError):  # noqa: N818
    """An adapter.safetensors that is not as its record says it was written."""


def made_of(method: MethodSpec, backbone: BackboneSpec | None, llm: LLMSpec) -> dict[str, Any]:
    """The method, backbone and LLM of an adapter, as far as they are known without the models; no
    backbone for a method that reads none.
    """
    return {
        "method": {key: value for key, value in method.given().items() if key != "version"},
        "backbone": None if backbone is None else {"shape": backbone.shape.given()},
        "llm": {"family": llm.family, "shape": llm.shape.given()},
    }


def made_for(
    method: MethodSpec, backbone: BackboneSpec, weights: Path | None, llm: LLMSpec, directory: Path
) -> dict[str, Any]:
    """All of it, as adapter.json tells it, by the directories of the backbone's weights (None for a
    method that reads none) and of the LLM.
    """
    made = made_of(method, None if weights is None else backbone, llm)
    made["llm"] |= model_source(directory)
    if weights is not None:
        made["backbone"] |= {"transform": token_identity(backbone)["transform"]}
        made["backbone"] |= model_source(weights)
    return made


def read_record(path: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Read an adapter.json and check it against `expected`: what of `made_for` is known.

    Raises AdapterError naming the first thing in which the adapter was made for something else.
    """
    try:
        record = read_checked(path)
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    except DamagedFile as error:
        raise DamagedAdapter(f"the adapter's record {path} is damaged: {error.why}") from error
    for part in ("method", "backbone", "llm"):
        if part not in record:
            raise AdapterError(f"{path} is not an adapter's record: it has no {part}")
        wanted = expected.get(part)
        if wanted is None:  # unknown to the caller, or a method that reads no backbone
            continue
        found = record[part] or {}
        keys = {*wanted, *found} if part == "method" else wanted.keys() - set(DESCRIPTIVE)
        for key in sorted(keys):
            if found.get(key) != json.loads(json.dumps(wanted.get(key))):
                names = [of.get("uri") or of.get("name") for of in (found, wanted)]
                which = f", {names[0]}, than {names[1]}" if all(names) else ""
                raise AdapterError(
                    f"{path.parent} was trained with another {part}{which}: "
                    f"its {key} is {found.get(key)}, not {wanted.get(key)}"
                )
    return record
