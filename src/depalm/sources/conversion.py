"""What converters share: the one file that they read, and the safetensors that they write."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from depalm.errors import DepalmError


class ConvertError(DepalmError):
    """A download that a converter cannot turn into the model or dataset it is meant to be."""


def only_file(directory: Path, pattern: str) -> Path:
    found = sorted(directory.glob(pattern))
    if len(found) != 1:
        names = [path.name for path in found] or sorted(path.name for path in directory.iterdir())
        raise ConvertError(f"{directory} must hold exactly one {pattern}, but holds {names}")
    return found[0]


def save(state: Mapping[str, Tensor], directory: Path, name: str = "model.safetensors") -> None:
    """Write safetensors; of tied weights, which share memory, only the first is written."""
    first: dict[int, str] = {}
    for tied, tensor in state.items():
        first.setdefault(tensor.data_ptr(), tied)
    tensors = {key: state[key].contiguous() for key in first.values()}
    # one metadata key: safetensors writes several in a random order, and bytes must not differ
    path = directory / name
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors lets only the owner read
