"""All metrics as data: a module of rows for each program or thing, and the table of them all."""

from meshhook.observability.metrics.metric import Kind, Metric, Source
from meshhook.observability.metrics.table import METRICS

__all__ = ["METRICS", "Kind", "Metric", "Source"]
