"""Part files: {kind}s/{name}.yaml, each read and checked once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from depalm.config import paths
from depalm.config.schema import ConfigError, check_schema, load_yaml
from depalm.specs import BackboneSpec, DatasetSpec, LLMSpec, MethodFile, Spec, nearest


@dataclass(frozen=True)
class Parts:
    """The part files in `folders`; the first folder that has a file wins.

    Each method raises ConfigError for a name without a file, and for a file that breaks its schema.
    """

    folders: Sequence[Path]
    _read: dict[tuple[str, str], Spec] = field(default_factory=dict, repr=False)

    def dataset(self, name: str) -> DatasetSpec:
        return cast(DatasetSpec, self.part("dataset", name))

    def backbone(self, name: str) -> BackboneSpec:
        return cast(BackboneSpec, self.part("backbone", name))

    def llm(self, name: str) -> LLMSpec:
        return cast(LLMSpec, self.part("llm", name))

    def method(self, name: str) -> MethodFile:
        return cast(MethodFile, self.part("method", name))

    def part(self, kind: str, name: str) -> Spec:
        """The spec of a part of any `kind`: dataset, backbone, llm or method."""
        if (kind, name) not in self._read:
            files = [folder / f"{kind}s" / f"{name}.yaml" for folder in self.folders]
            path = next((path for path in files if path.is_file()), None)
            if path is None:
                there = {other.stem for path in files for other in path.parent.glob("*.yaml")}
                wanted = ", ".join(map(str, files))
                raise ConfigError(f"unknown {kind} {name!r}{nearest(name, there)} (no {wanted})")
            self._read[kind, name] = check_schema(load_yaml(path), kind, str(path))
        return self._read[kind, name]

    def directory(self, kind: str, name: str) -> str:
        """Where a dataset, backbone or LLM is read: the user's own folder, converted, or as
        fetched.
        """
        part = self.part(kind, name)
        own = getattr(part, "root" if isinstance(part, DatasetSpec) else "path")
        if own is not None:
            return str(own)
        place = paths.DOWNLOAD if getattr(part, "convert", None) is None else paths.MODEL
        return place.format(kind=f"{kind}s", part=name)

    def media_directory(self, dataset: str) -> str:
        """The folder of a dataset's media: its `media_root`, or else that of the annotations."""
        root = self.dataset(dataset).media_root
        return self.directory("dataset", dataset) if root is None else str(Path(root))

    def data_folders(self, dataset: str) -> dict[str, str]:
        """The folders of a dataset's annotations and media."""
        root = self.directory("dataset", dataset)
        return {"annotations": root, "media": self.media_directory(dataset)}
