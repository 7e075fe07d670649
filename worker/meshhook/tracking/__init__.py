"""Tracking: the whole life of one job, and lists of jobs."""

from meshhook.tracking.filters import JobFilters
from meshhook.tracking.found_jobs import FoundJobs
from meshhook.tracking.lives import get_job
from meshhook.tracking.search import find_jobs

__all__ = ["FoundJobs", "JobFilters", "find_jobs", "get_job"]
