"""The state of a training run and its checkpoints, from which a killed run goes on to the byte."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from depalm.adapters.adapter import Adapter
from depalm.errors import DepalmError
from depalm.files import atomic_file, first_difference, sha256_json
from depalm.progress import logger
from depalm.training.validation import Best

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Training:
    """A run in progress: what a checkpoint holds."""

    adapter: Adapter
    optimizer: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0
    samples: int = 0
    tokens: int = 0
    loss: float = math.nan
    best: Best = field(default_factory=Best)

    @property
    def device(self) -> torch.device:
        return next(self.adapter.parameters()).device

    def tensors(self) -> dict[str, Tensor]:
        """Adapter, optimizer moments and random states, by name."""
        tensors = {f"adapter.{name}": value for name, value in self.adapter.state_dict().items()}
        for name, parameter in self.adapter.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = value
        tensors |= {f"best.{name}": value for name, value in self.best.tensors.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        return tensors

    def save(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Write a checkpoint to `path`; the one that was there is kept as the one before."""
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "samples": self.samples,
            "tokens": self.tokens,
            "loss": self.loss,
            "best": self.best.progress,
        }
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in self.tensors().items()
        }
        metadata = {"identity": json.dumps(identity), "progress": json.dumps(progress)}
        metadata["sha256"] = _checksum(tensors, metadata)
        with atomic_file(path) as temporary:
            save_file(tensors, temporary, metadata)
            if path.exists():
                path.replace(one_before(path))

    def load(self, path: Path, identity: Mapping[str, Any]) -> bool:
        """Go on from the checkpoint at `path`, or from the one before if that is damaged; False if
        there is none of a run of the same `identity`.
        """
        for candidate in (path, one_before(path)):
            if not candidate.is_file():
                continue
            try:
                tensors, metadata = read_checkpoint(candidate)
            except CheckpointError as error:
                logger.warning("%s: going on from an older one, or from the start", error)
                continue
            wanted = json.loads(json.dumps(identity))
            difference = first_difference(json.loads(metadata["identity"]), wanted, "")
            if difference is not None:
                logger.info("%s is of a run with %s %r, not %r: not used", candidate, *difference)
                continue
            self._restore(tensors, json.loads(metadata["progress"]))
            return True
        return False

    def _restore(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        self.adapter.load_state_dict(_under(tensors, "adapter."))
        for name, parameter in self.adapter.named_parameters():
            state = _under(tensors, f"optimizer.{name}.")
            moments = {key: value.to(parameter.device) for key, value in state.items()}
            self.optimizer.state[parameter] = moments
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.samples, self.tokens = progress["samples"], progress["tokens"]
        self.loss = progress["loss"]
        self.best = Best.of(progress["best"], _under(tensors, "best."))


class CheckpointError(DepalmError):
    """A checkpoint of training that is damaged."""


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a checkpoint and its metadata. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {path} is damaged ({error})") from error
    if metadata.get("sha256") != _checksum(tensors, metadata):
        raise CheckpointError(f"the checkpoint {path} is damaged (its SHA-256 is another)")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that a checkpoint holds."""
    told = [metadata.get(key) for key in ("identity", "progress")]
    return sha256_json([*told, sha256_tensors(tensors)])


def sha256_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and bytes of tensors on the CPU, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}\0".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def remove_checkpoints(folder: Path) -> None:
    """Remove what training keeps in `folder` to go on from, once the adapter is whole."""
    for path in (folder / CHECKPOINT, one_before(folder / CHECKPOINT)):
        path.unlink(missing_ok=True)


def one_before(path: Path) -> Path:
    """The path of the checkpoint before the one at `path`."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
