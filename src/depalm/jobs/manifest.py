"""Manifests of splits, and training subsets drawn from them (rules `manifest` and `subset`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from depalm.jobs.job import Job
from depalm.specs.dataset import RowsSpec


@dataclass(frozen=True, kw_only=True)
class ManifestJob(Job):
    """Build the manifest of a split from the dataset's annotations.

    The annotations lie in the folder `data`. `dataset` is the content of the dataset's YAML, as far
    as it decides the rows: version, reader, splits, templates, media_root. `max_rows` keeps so many
    rows of the `split`, or that part of them if it is below 1; null keeps all. Outputs are the
    `manifest` (one row per sample), in `rejects` the rows that were left out (more than
    `max_reject_fraction` of them fail the job), and in `files` what it was made of, as
    depalm.datasets.watched says, in the `state` that stands in that file.
    """

    command: ClassVar[str] = "manifest"

    data: str
    dataset: RowsSpec
    split: str
    max_rows: int | float | None = None
    max_reject_fraction: float = 0.0
    state: str | None = None
    manifest: str
    rejects: str
    files: str

    def run(self) -> None:
        """Raises AnnotationError, ManifestError or RejectError."""
        from depalm.datasets.manifest import build_manifest, write_manifest
        from depalm.datasets.watched import write_files
        from depalm.rejects import write_rejects

        state = "" if self.state is None else Path(self.state).read_text(encoding="utf-8")
        built = build_manifest(
            root=Path(self.data),
            dataset=self.dataset,
            split=self.split,
            max_rows=self.max_rows,
            max_reject_fraction=self.max_reject_fraction,
        )
        write_manifest(self.manifest, built.samples)
        write_rejects(self.rejects, built.rejects)
        write_files(self.files, built.files, state)


@dataclass(frozen=True, kw_only=True)
class SubsetJob(Job):
    """Draw the training subset of a fraction and seed.

    `fraction` (such as 10pct) of the samples of `manifest` are drawn by `seed`. Output is the file
    `ids`: {"ids": those of the samples}, with a checksum.
    """

    command: ClassVar[str] = "subset"

    manifest: str
    fraction: str
    seed: int
    ids: str

    def run(self) -> None:
        """Raises ManifestError."""
        from depalm.datasets.manifest import read_manifest
        from depalm.datasets.subsets import draw_subset
        from depalm.files import write_checked
        from depalm.progress import logger

        ids = [sample.id for sample in read_manifest(self.manifest)]
        subset = draw_subset(ids, self.fraction, self.seed)
        write_checked(self.ids, {"ids": subset})
        logger.info("%d of %d samples", len(subset), len(ids))
