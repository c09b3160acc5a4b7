"""An adapter on disk: adapter.safetensors, and its record, adapter.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from depalm.adapters.adapter import Adapter
from depalm.adapters.errors import AdapterError
from depalm.adapters.record import RECORD, DamagedAdapter, read_record
from depalm.files import atomic_file, sha256_file, write_checked, write_json
from depalm.progress import logger


def save_adapter(
    adapter: Adapter,
    weights: Path,
    record: Path,
    made: Mapping[str, Any],
    training: Mapping[str, Any],
    usage: Mapping[str, Any],
) -> None:
    """Write the adapter's tensors and, as JSON, their file's SHA-256, what it was made for (see
    `depalm.adapters.record.made_for`), how it was trained, and how it is used (see
    `depalm.specs.Usage`).
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
    told = {"training": dict(training), "usage": dict(usage)}
    write_checked(record, {**digest, **made, **dimensions, **told})


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
