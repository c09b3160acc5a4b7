"""Edits of a user's own files, looked for before the DAG is built (docs/design.md#reruns)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from depalm.config import paths
from depalm.config.experiment import Config
from depalm.datasets.watched import model_state, notice
from depalm.files import write_json
from depalm.progress import logger
from depalm.sources.model_folder import model_files


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
