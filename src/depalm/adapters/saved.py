"""An adapter on disk: adapter.safetensors, and adapter.json, which says what it was made for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from depalm.adapters.adapter import Adapter
from depalm.adapters.errors import AdapterError
from depalm.files import atomic_file, read_json, sha256_file, write_json
from depalm.identity import model_source, token_identity
from depalm.progress import logger
from depalm.specs import BackboneSpec

WEIGHTS, RECORD = "adapter.safetensors", "adapter.json"
# what tells where a model is from, but not what it is
DESCRIPTIVE = ("name", "uri", "revision")


class DamagedAdapter(AdapterError):  # noqa: N818
    """An adapter.safetensors that is not as its record says it was written."""


def made_for(
    parts: Mapping[str, Mapping[str, Any]], backbone: Path | None, llm: Path
) -> dict[str, Any]:
    """What an adapter is made for, as adapter.json tells it, from the parts' YAML and the
    directories of the models; without a backbone for a method that reads none.
    """
    method = {key: value for key, value in parts["method"].items() if key != "version"}
    language = {key: parts["llm"][key] for key in ("family", "shape")}
    made: dict[str, Any] = {
        "method": method,
        "backbone": None,
        "llm": {**language, **model_source(llm)},
    }
    if backbone is not None:
        spec = parts["backbone"]
        made["backbone"] = {
            "shape": spec["shape"],
            "transform": token_identity(BackboneSpec.model_validate(spec))["transform"],
            **model_source(backbone),
        }
    return made


def save_adapter(
    adapter: Adapter,
    weights: Path,
    record: Path,
    made: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Write the adapter's tensors and, as JSON, their file's SHA-256, what it was made for (see
    :func:`made_for`) and how it was trained.
    """
    tensors = {name: value.cpu().contiguous() for name, value in adapter.state_dict().items()}
    with atomic_file(weights) as temporary:
        save_file(tensors, temporary)
    dimensions = {
        "source_layers": adapter.source_layers,
        "target_layers": adapter.target_layers,
        "trainable_parameters": adapter.trainable_parameters,
    }
    digest = {"sha256": sha256_file(weights)}
    write_json(record, {**digest, **made, **dimensions, "training": dict(training)})


def read_record(path: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Read an adapter.json and check it against `expected`: what of :func:`made_for` is known.

    Raises AdapterError naming the first thing in which the adapter was made for something else.
    """
    try:
        record: dict[str, Any] = read_json(path)
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise DamagedAdapter(f"{path} is not an adapter's record, or is cut: {error}") from error
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


def load_weights(adapter: Adapter, path: Path, record: Mapping[str, Any]) -> None:
    """Fill `adapter` with the tensors at `path`, whose SHA-256 its `record` holds.

    Raises DamagedAdapter if they are not as they were written, AdapterError unless they are exactly
    the adapter's own.
    """
    found, written = sha256_file(path), record.get("sha256")
    if written is None:
        logger.warning("%s has no sha256 of its adapter: damage goes unnoticed", path.parent)
    elif found != written:
        raise DamagedAdapter(
            f"{path} is damaged: its SHA-256 is {found}, but {path.with_name(RECORD)} says "
            f"{written}; get both files again, or delete them and train anew"
        )
    try:
        tensors = load_file(path)
        adapter.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise AdapterError(f"{path} does not hold this adapter's tensors: {error}") from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise AdapterError(f"{path}: {name} is not finite; train the adapter again")


def load_adapter(
    adapter: Adapter, weights: Path, record: Path, made: Mapping[str, Any], run: Path
) -> None:
    """Fill `adapter` from its two files, which must be whole and made for `made`.

    If they are damaged and belong to the folder `run`, the weights are set aside, and the record
    says so, before DamagedAdapter is raised: the same command then makes both anew, for Snakemake
    misses the one and finds the other changed.
    """
    try:
        load_weights(adapter, weights, read_record(record, made))
    except DamagedAdapter as error:
        if weights.parent != run:
            raise
        aside = weights.with_name(f"{weights.name}.damaged")
        weights.replace(aside)
        write_json(record, {"damaged": str(error)})
        raise DamagedAdapter(
            f"{error}. Its weights are now {aside}: run the same command again to have them anew"
        ) from error
