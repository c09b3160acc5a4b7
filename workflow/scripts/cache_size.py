"""Print how large the token caches of a configuration will be (rule `cache_size`)."""

from collections.abc import Mapping, Sequence
from typing import Any

from depalm.cache.store import FORMATS, predicted_bytes
from depalm.datasets.manifest import read_manifest, unique_media
from depalm.process import job


def size_table(caches: Sequence[Mapping[str, Any]], files: Sequence[int], layout: str) -> str:
    """Bytes by dataset, backbone, view, split, array, and their sum; `files` counts each cache."""
    row = "{:<20} {:<20} {:<4} {:<6} {:<18} {:>10} {:>18}".format
    lines, total = [row("dataset", "backbone", "view", "split", "array", "files", "bytes")], 0
    for cache, count in zip(caches, files, strict=True):
        place = [cache[key] for key in ("dataset", "backbone", "view", "split")]
        shape, layers = cache["shape"], cache["layers"]
        for name, size in predicted_bytes(FORMATS[layout], count, shape, layers).items():
            lines.append(row(*place, name, f"{count:,}", f"{size:,}"))
            total += size
    return "\n".join([*lines, row("total", "", "", "", "", "", f"{total:,}")])


with job(snakemake.log[0]):
    print(
        size_table(
            snakemake.params.caches,
            [len(unique_media(read_manifest(path))) for path in snakemake.input],
            snakemake.params.format,
        )
    )
