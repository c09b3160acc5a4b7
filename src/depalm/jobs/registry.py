"""The jobs by the names of their commands: the only list of them."""

from depalm.jobs.cache_size import CacheSizeJob
from depalm.jobs.evaluate import ScoreJob, TableJob
from depalm.jobs.extract import ExtractJob, FetchRowsJob, ReceiptJob
from depalm.jobs.generate import GenerateJob
from depalm.jobs.job import Job
from depalm.jobs.manifest import ManifestJob, SubsetJob
from depalm.jobs.report import ReportJob
from depalm.jobs.sources import ConvertJob, FetchJob
from depalm.jobs.train import TrainJob, TrainSeedsJob
from depalm.jobs.tune import TuneJob

# in the order of the workflow
JOBS: dict[str, type[Job]] = {
    kind.command: kind
    for kind in (
        FetchJob,
        ConvertJob,
        ManifestJob,
        SubsetJob,
        CacheSizeJob,
        ExtractJob,
        FetchRowsJob,
        ReceiptJob,
        TuneJob,
        TrainJob,
        TrainSeedsJob,
        GenerateJob,
        ScoreJob,
        TableJob,
        ReportJob,
    )
}
