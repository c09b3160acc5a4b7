"""The weights of a backbone as files."""

from pathlib import Path

from depalm.errors import DepalmError


class BackboneError(DepalmError):
    """A backbone that cannot be used: missing weights, or not the architecture that is stated."""


def weight_files(weights: Path) -> list[Path]:
    """The safetensors in a directory. Raises BackboneError if there are none."""
    files = sorted(weights.glob("*.safetensors"))
    if not files:
        raise BackboneError(f"{weights} holds no .safetensors; fetch or convert the weights again")
    return files
