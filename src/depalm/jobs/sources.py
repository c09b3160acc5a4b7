"""What others published, fetched (rules `fetch`, `convert`, `fetch_shard`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from depalm.jobs.job import Job, JobError
from depalm.specs import BackboneSpec
from depalm.specs.dataset import DatasetSource


@dataclass(frozen=True, kw_only=True)
class FetchJob(Job):
    """Fetch the source of a model or dataset.

    `source` is that of its YAML: an object with uri and sha256, or a list of such objects. What it
    names appears in the folder `directory`. The folder `downloads` keeps each download once, for
    all that want it.
    """

    command: ClassVar[str] = "fetch"

    source: DatasetSource | list[DatasetSource]
    directory: str
    downloads: str

    def run(self) -> None:
        """Raises SourceError, DownloadError, ArchiveError or OutsideError."""
        from depalm.sources.fetch import fetch

        sources = self.source if isinstance(self.source, list) else [self.source]
        fetch(sources, Path(self.directory), downloads=Path(self.downloads))


@dataclass(frozen=True, kw_only=True)
class ConvertJob(Job):
    """Convert a fetched model to safetensors, or a dataset to its official form.

    `convert` names the converter, as the part's YAML does. It reads the folder `download`, and
    writes the folder `directory`.
    """

    command: ClassVar[str] = "convert"

    download: str
    convert: str
    directory: str

    def run(self) -> None:
        """Raises ConvertError, of a dataset AnnotationError."""
        from depalm.sources.convert import convert

        convert(Path(self.download), Path(self.directory), converter=self.convert)


@dataclass(frozen=True, kw_only=True)
class FetchShardJob(Job):
    """Fetch one shard of a published token cache, and check it.

    `url` is that of a published copy of results/. The outputs `shard` and `rejects` have there the
    paths that they have here. The shard must hold the tokens of the `view` by the backbone whose
    YAML is `backbone`.
    """

    command: ClassVar[str] = "fetch-shard"

    url: str
    backbone: BackboneSpec
    view: int = 0
    shard: str
    rejects: str

    def run(self) -> None:
        """Raises CacheError, DownloadError, or JobError for an output outside of results/."""
        from depalm.cache.errors import CacheError
        from depalm.cache.reader import TokenCache
        from depalm.identity import token_identity
        from depalm.sources.download import download_url

        fetched = {}
        for output in map(Path, (self.shard, self.rejects)):
            if not output.is_relative_to("results"):
                raise JobError(f"{output} is not in results/, so {self.url} has no copy of it")
            fetched[output] = output.parent / ".fetched" / output.name
            fetched[output].parent.mkdir(parents=True, exist_ok=True)
            place = output.relative_to("results").as_posix()
            download_url(f"{self.url.rstrip('/')}/{place}", fetched[output])
        shard = fetched[Path(self.shard)]
        try:
            TokenCache([shard], token_identity(self.backbone, self.view)).verify()
        except CacheError:
            shard.unlink()  # to be fetched anew
            raise
        for output, path in fetched.items():
            path.replace(output)
