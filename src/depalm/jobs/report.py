"""The page of all results (rule `report`)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from depalm.jobs.job import Job
from depalm.specs import ReportPart


@dataclass(frozen=True, kw_only=True)
class ReportJob(Job):
    """Make the page of all results: tables, what can be concluded, plots, cost, and a gallery.

    `parts` are the tables, each with the scores of its runs (beside which predictions, the scores
    of samples and learning curves lie), a CSV of published scores, if any, and the runs that are
    missing. `media` says of each dataset in which `folder` its files lie, and their `modality`.
    Outputs are the page `html`, and the folder `shown` beside it with what its gallery shows.
    """

    command: ClassVar[str] = "report"

    parts: list[ReportPart]
    media: dict[str, Any]
    html: str
    shown: str

    def run(self) -> None:
        """Raises TableError."""
        from pathlib import Path

        from depalm.report import write_report

        write_report(self.parts, self.media, Path(self.html), Path(self.shown))
