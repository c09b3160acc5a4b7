"""What the rules of the workflow run: one job per rule, from files to files."""

from depalm.jobs.job import Job, JobError, hints_of, is_required, told
from depalm.jobs.registry import JOBS
from depalm.jobs.script import run_script

__all__ = ["JOBS", "Job", "JobError", "hints_of", "is_required", "run_script", "told"]
