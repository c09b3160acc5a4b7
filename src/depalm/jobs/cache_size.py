"""The size of token caches before they are extracted (rule `cache_size`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from depalm.jobs.job import Job


@dataclass(frozen=True, kw_only=True)
class CacheSizeJob(Job):
    """Print how large token caches will be.

    Each of `caches` has dataset, backbone, the backbone's shape, view, split, and the arrays of the
    token store. What the store has already is counted too. `manifests` has the manifest of each, in
    the same order; `format` is zarr or webdataset.
    """

    command: ClassVar[str] = "cache-size"

    manifests: list[str]
    caches: list[dict[str, Any]]
    format: str

    def run(self) -> None:
        from depalm.datasets.manifest import media_keys, read_manifest

        files = [len({*media_keys(read_manifest(path)).values()}) for path in self.manifests]
        print(size_table(self.caches, files, self.format))


def size_table(caches: Sequence[dict[str, Any]], files: Sequence[int], layout: str) -> str:
    """Bytes by dataset, backbone, view, split, array, and their sum; `files` counts each cache."""
    from depalm.cache.formats import FORMATS, predicted_bytes

    row = "{:<20} {:<20} {:<4} {:<6} {:<18} {:>10} {:>18}".format
    lines, total = [row("dataset", "backbone", "view", "split", "array", "files", "bytes")], 0
    for cache, count in zip(caches, files, strict=True):
        place = [cache[key] for key in ("dataset", "backbone", "view", "split")]
        shape, arrays = cache["shape"], cache["arrays"]
        for name, size in predicted_bytes(FORMATS[layout], count, shape, arrays).items():
            lines.append(row(*place, name, f"{count:,}", f"{size:,}"))
            total += size
    return "\n".join([*lines, row("total", "", "", "", "", "", f"{total:,}")])
