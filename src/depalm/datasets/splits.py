"""Media that stand in two splits, such as train and test."""

from dataclasses import dataclass
from pathlib import Path

from depalm.datasets.manifest import media_keys, read_manifest


@dataclass(frozen=True)
class Overlap:
    """Media of a split that stand in another one too, by their content, whatever they are called.

    `both` has their names in the two; the second split has `total` media.
    """

    both: list[tuple[str, str]]
    total: int


def overlap(first: Path | str, second: Path | str) -> Overlap:
    """The media of the manifest `second` that stand in `first` too. Raises ManifestError."""
    before, after = (media_keys(read_manifest(path)) for path in (first, second))
    names = {key: name for name, key in before.items() if key}
    return Overlap([(names[k], name) for name, k in after.items() if k in names], len(after))
