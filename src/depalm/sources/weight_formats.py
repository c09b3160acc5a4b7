"""Checkpoints that are not safetensors: PyTorch's, read without running code, and CTranslate2's."""

import argparse
import codecs
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from depalm.errors import DepalmError


class CheckpointError(DepalmError):
    """A checkpoint that is damaged, holds something else, or more than plain data."""


def read_pytorch(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint. A wrapped state dict (`state_dict`, `model`) is unwrapped,
    and the prefix `module.` of DataParallel removed.

    It is unpickled as tensors and plain values only (`weights_only`): no code in it is run. Raises
    CheckpointError.
    """
    try:
        with torch.serialization.safe_globals(PLAIN_TYPES):
            state: Any = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of plain data: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    pairs = state.items() if isinstance(state, Mapping) else ()
    tensors = {name: value for name, value in pairs if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name, but a {type(state).__name__}")
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def read_ct2(path: Path, model: str) -> dict[str, np.ndarray[Any, Any]]:
    """The variables of a model.bin of CTranslate2, format 6 (as its model_spec.py writes it), whose
    kind is `model`. Raises CheckpointError.
    """
    try:
        with path.open("rb") as stream:

            def numbers(form: str) -> tuple[int, ...]:
                return struct.unpack(f"<{form}", stream.read(struct.calcsize(f"<{form}")))

            def text() -> str:
                return stream.read(*numbers("H")).rstrip(b"\0").decode()

            (version,) = numbers("I")
            if version != 6 or text() != model:
                raise ValueError("another format or model")
            _, count = numbers("II")
            variables = {}
            for _ in range(count):
                name, (rank,) = text(), numbers("B")
                shape, (kind, size) = numbers(f"{rank}I"), numbers("BI")
                array = np.frombuffer(stream.read(size), dtype=CT2_TYPES[kind])
                variables[name] = array.reshape(shape)
            return variables
    except (struct.error, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a {model} of CTranslate2, format 6, in 16 or 32 bits: {error!r}"
        ) from error


CT2_TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}

# what checkpoints hold beside tensors (arguments, scores) and torch does not allow by itself;
# numpy's function is called as in numpy 1, with which they were written
PLAIN_TYPES: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
    np.float64().__reduce__()[0],
    (np.float64().__reduce__()[0], "numpy.core.multiarray.scalar"),
    (codecs.encode, "_codecs.encode"),
]
