"""What others published, fetched (rules `fetch`, `convert`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from depalm.jobs.job import Job
from depalm.specs.dataset import DatasetSource


@dataclass(frozen=True, kw_only=True)
class FetchJob(Job):
    """Fetch the source of a model or dataset.

    `source` is that of its YAML: an object with uri and sha256, or a list of such objects. What it
    names appears in the folder `directory`, and in the file `record` where it is from. The folder
    `downloads` keeps each download once, for all that want it.
    """

    command: ClassVar[str] = "fetch"

    source: DatasetSource | list[DatasetSource]
    directory: str
    record: str
    downloads: str

    def run(self) -> None:
        """Raises SourceError, DownloadError, ArchiveError or OutsideError."""
        from depalm.files import read_checked, write_checked
        from depalm.sources.fetch import fetch

        sources = self.source if isinstance(self.source, list) else [self.source]
        fetch(sources, Path(self.directory), downloads=Path(self.downloads))
        write_checked(self.record, read_checked(Path(self.directory, "source.json")))


@dataclass(frozen=True, kw_only=True)
class ConvertJob(Job):
    """Convert a fetched model to safetensors, or a dataset to its official form.

    `convert` names the converter, as the part's YAML does. It reads the folder `download`, and
    writes the folder `directory`, and in the file `record` where its content is from.
    """

    command: ClassVar[str] = "convert"

    download: str
    convert: str
    directory: str
    record: str

    def run(self) -> None:
        """Raises ConvertError, of a dataset AnnotationError."""
        from depalm.files import read_checked, write_checked
        from depalm.sources.convert import convert

        convert(Path(self.download), Path(self.directory), converter=self.convert)
        write_checked(self.record, read_checked(Path(self.directory, "source.json")))
