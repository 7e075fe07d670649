"""The doctor: what is wrong with a database and its queues, and the way out."""

from meshhook.doctor.examination import CHECKS, examine
from meshhook.doctor.finding import Finding, Severity

__all__ = ["CHECKS", "Finding", "Severity", "examine"]
