"""The plan of the token store: which rows the runs read, and which extractions put them there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from depalm.cache.formats import CLS, LAYERS, arrays_of, layers_of
from depalm.config import paths
from depalm.config.experiment import Config
from depalm.config.plan import receipt
from depalm.progress import logger

EARLIER = f"{paths.RESULTS}/*/cache/*/view*/*/shard-*-of-*"  # shards of version 0.1
Extracted = tuple[list[str], list[str]]  # arrays, files


@dataclass(frozen=True)
class StorePlan:
    """What a configuration wants of the token store."""

    config: Config
    _seen: dict[Path, list[Extracted]] = field(default_factory=dict, repr=False)

    def warn_of_earlier_caches(self) -> None:
        """Tell of caches of a version that had one for each dataset."""
        old = [p for s in ("zarr", "tar") for p in Path().glob(f"{EARLIER}.{s}")]
        if old:
            logger.warning(
                "%d shards were made by an earlier version of depalm, such as %s: they are not "
                "read, and their media are extracted again into %s. Remove them when you like",
                *(len(old), sorted(old)[0], paths.STORE),
            )

    def caches(self) -> list[dict[str, Any]]:
        """The rows that the runs want in the token store: dataset, backbone and its shape, view,
        split, and the arrays, with the summary tokens, which are always kept.
        """
        read: dict[tuple[str, str, int, str], set[str]] = {}
        for run in self.config.runs:
            plan = self.config.plan(run)
            for split, view in plan.cached():
                place = (run.dataset, run.backbone, view, split)
                read.setdefault(place, set()).update(plan.arrays)
        return [
            {
                "dataset": dataset,
                "backbone": backbone,
                "shape": self.config.parts.backbone(backbone).shape.given(),
                "view": view,
                "split": split,
                "arrays": arrays_of(layers_of({CLS, *arrays})),
            }
            for (dataset, backbone, view, split), arrays in read.items()
        ]

    def receipts(self) -> list[str]:
        """The receipts of all rows that the runs read."""
        found: dict[str, None] = {}
        for run in self.config.runs:
            plan = self.config.plan(run)
            for split, view in plan.cached():
                found[receipt(run.dataset, run.backbone, split, view, plan.layers)] = None
        return list(found)

    def extractions(self, wildcards: Mapping[str, str], layers: str) -> list[str]:
        """The extractions that put the rows of `layers` into the token store; the wildcards are
        those of a receipt's path. There are none of rows that are streamed.

        Those that are on disk come first: each array belongs to the one that has it. What none has
        is extracted in one pass, along with all that the configuration reads of this backbone on
        this dataset, and the summary tokens, which take little.
        """
        if self.config.settings.cache.stream:
            return []
        place = {key: wildcards[key] for key in ("dataset", "backbone", "view", "split")}
        folder = Path(paths.EXTRACTIONS.format(**place))
        done = _extracted(folder, self._seen)
        wanted = arrays_of(layers)
        # the first that has an array comes last here
        held = {array: files for arrays, files in reversed(done) for array in arrays}
        if new := [array for array in wanted if array not in held]:
            configured = self._cached_arrays.get((place["dataset"], place["backbone"]), set())
            together = {CLS, *new, *configured} - held.keys()
            count = self.config.settings.cache.shards
            files = [
                paths.EXTRACTION.format(**place, layers=layers_of(together), shard=i, shards=count)
                for i in range(count)
            ]
            held |= dict.fromkeys(new, files)
        return list(dict.fromkeys(file for array in wanted for file in held[array]))

    def encoder_settings(self, place: Mapping[str, str]) -> dict[str, Any]:
        """What decides the rows of an extraction, by its job's fields; `place` has the wildcards of
        its path.
        """
        cache = self.config.settings.cache
        return {
            "backbone": self.config.parts.backbone(place["backbone"]).given(),
            "view": int(place["view"]),
            "dtype": cache.dtype,
            "compute": cache.compute,
            "compiled": cache.compile,
        }

    def extraction_how(self, place: Mapping[str, str]) -> dict[str, Any]:
        """How an extraction works, by its job's fields; no row depends on it."""
        cache = self.config.settings.cache
        return {
            "url": cache.url,
            "name": place["backbone"],
            "data": self.config.parts.media_directory(place["dataset"]),
            "weights": self.config.parts.directory("backbone", place["backbone"]),
            "store": paths.STORE,
            "layers": place["layers"],
            "index": int(place["shard"]),
            "shards": int(place["shards"]),
            "device": self.config.settings.device,
            "cache": {
                "format": cache.format,
                "batch_size": cache.batch_size,
                "decode_seconds": cache.decode_seconds,
                "max_reject_fraction": self.config.max_reject_fraction(place["dataset"]),
            },
        }

    def receipt_settings(self, place: Mapping[str, str]) -> dict[str, Any]:
        """What decides the rows that a receipt tells of, by its job's fields."""
        return {**self.encoder_settings(place), "layers": place["layers"]}

    def receipt_how(self, place: Mapping[str, str]) -> dict[str, Any]:
        """The rest that the job of a receipt takes."""
        cache = self.config.settings.cache
        return {
            "store": str(cache.url) if cache.stream else paths.STORE,
            "max_reject_fraction": self.config.max_reject_fraction(place["dataset"]),
        }

    @cached_property
    def _cached_arrays(self) -> dict[tuple[str, str], set[str]]:
        """The arrays that the runs read of each dataset by each backbone."""
        found: dict[tuple[str, str], set[str]] = {}
        for run in self.config.runs:
            arrays = found.setdefault((run.dataset, run.backbone), set())
            arrays.update(self.config.plan(run).arrays)
        return found


def _extracted(folder: Path, seen: dict[Path, list[Extracted]]) -> list[Extracted]:
    """The extractions in `folder` that are complete: their arrays, and their files.

    They are looked up once, so that the plan stays what it was while jobs end.
    """
    if folder not in seen:
        seen[folder] = []
        sets = sorted(folder.iterdir()) if folder.is_dir() else []
        for files in (path for path in sets if LAYERS.fullmatch(path.name)):
            names = {path.name for path in files.glob("*-of-*.json")}
            for count in sorted({int(name.removesuffix(".json").split("-")[2]) for name in names}):
                wanted = [f"{i}-of-{count}.json" for i in range(count)]
                if names.issuperset(wanted):
                    paths_of = [(files / name).as_posix() for name in wanted]
                    seen[folder].append((arrays_of(files.name), paths_of))
                    break
    return seen[folder]
