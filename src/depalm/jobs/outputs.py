"""Outputs of a long job: finished in a folder of its own, then given their places.

The copies in that folder (hard links, which take no space) stay. If a place is emptied, as
Snakemake does before it starts a job again and after one has failed, the next job with the same
identity gives the files out again instead of doing the work twice.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depalm.files import first_difference, link, read_json, sha256_file, write_json
from depalm.progress import logger

FINISHED = "finished.json"


def publish(folder: Path, places: Mapping[str, Path], identity: Mapping[str, Any]) -> None:
    """Give the files of `folder`, by name, their `places`; `identity` is all that decides their
    bytes, as JSON.
    """
    checksums = {name: sha256_file(folder / name) for name in places}
    write_json(folder / FINISHED, {"identity": identity, "sha256": checksums})
    _place(folder, places)


def publish_again(folder: Path, places: Mapping[str, Path], identity: Mapping[str, Any]) -> bool:
    """True if a job of this `identity` has finished in `folder`: its files get their `places`
    again. Files that are damaged do not count.
    """
    try:
        finished = read_json(folder / FINISHED)
        difference = first_difference(finished["identity"], json.loads(json.dumps(identity)), "")
        if difference is not None:
            logger.info("%s is of a job with %s %r, not %r: not used", folder, *difference)
            return False
        whole = all(sha256_file(folder / name) == finished["sha256"][name] for name in places)
    except (OSError, ValueError, LookupError, TypeError):
        return False
    if whole:
        logger.info("a job with the same inputs has finished this: its files from %s", folder)
        _place(folder, places)
    return whole


def _place(folder: Path, places: Mapping[str, Path]) -> None:
    for name, place in places.items():
        link(folder / name, place)
