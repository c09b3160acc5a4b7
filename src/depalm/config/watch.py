"""Edits of a user's own files, looked for before the DAG is built (docs/design.md#reruns)."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from depalm.config import paths
from depalm.config.experiment import Config
from depalm.datasets.watched import model_state, notice
from depalm.files import write_json
from depalm.progress import logger
from depalm.sources.model_folder import model_files


def redate() -> None:
    """Date what lies below results/ no later than now.

    Files dated in the future, after a clock that went back or by another machine's, would hide an
    edit until their time has come, and Snakemake would refuse what is made of them.
    """
    records = [Path(name).parent.parent for name in (paths.DOWNLOAD_RECORD, paths.MODEL_RECORD)]
    count = sum(_redate(folder) for folder in (Path(paths.RESULTS), *records))
    if count:
        logger.warning("%d files of the workflow were dated in the future, and now are not", count)


def _redate(folder: Path) -> int:
    """Redate the files of a folder, but for the shards of the store; how many there were."""
    now, count = time.time_ns(), 0
    for place, folders, files in os.walk(folder):
        if place == paths.STORE:
            folders.clear()
        for name in files:
            path = os.path.join(place, name)  # noqa: PTH118 (there are many)
            with suppress(OSError):  # not ours, or gone
                if os.stat(path).st_mtime_ns > now:  # noqa: PTH116
                    os.utime(path, ns=(now, now))
                    count += 1
    return count


@dataclass(frozen=True)
class Watch:
    """Keeps the state files that manifests, and jobs on models, depend on.

    Only if it `looks` are files looked at, each dataset's split and each model once; else a state
    that is there stands for what it was.
    """

    config: Config
    looks: bool
    _seen: set[str] = field(default_factory=set, repr=False)

    def data(self, dataset: str, split: str) -> str:
        """The state of the files that the manifest of a split is made of."""
        state = paths.STATE.format(dataset=dataset, split=split)
        record = Path(paths.FILES.format(dataset=dataset, split=split))
        folders = {k: Path(v) for k, v in self.config.parts.data_folders(dataset).items()}
        self._look(state, lambda path: notice(record, path, folders))
        return state

    def backbone(self, name: str) -> list[str]:
        """The state of a backbone in a folder of the user's own; none of a fetched one."""
        if self.config.parts.backbone(name).path is None:
            return []
        return [self.model(paths.MODEL_STATE.format(kind="backbones", part=name))]

    def model(self, state: str) -> str:
        """The state of a model in a folder of the user's own, by the path of that state."""
        kind, name = Path(state).parts[-3:-1]
        folder = Path(self.config.parts.directory(kind.removesuffix("s"), name))
        self._look(state, lambda path: model_state(path, folder, model_files))
        return state

    def _look(self, state: str, update: Callable[[Path], None]) -> None:
        if state in self._seen:
            return
        self._seen.add(state)
        path = Path(state)
        try:
            if self.looks:
                update(path)
            elif not path.exists():
                write_json(path, {"files": None})
        except OSError as error:
            logger.warning("edits are not looked for: %s cannot be written (%s)", path, error)
