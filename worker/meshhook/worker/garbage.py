"""The garbage collector of a process that is there for a worker and nothing else."""

from __future__ import annotations

import gc

NEW_OBJECTS = 10_000


def leave_program_alone() -> None:
    """Let the collector look at what jobs make, and no longer at what the program is made of.

    A claim of a thousand jobs makes tens of thousands of objects that live for a moment. With the
    default thresholds each claim has the collector walk over them, and over the program, dozens
    of times. Call it once, when all is imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
