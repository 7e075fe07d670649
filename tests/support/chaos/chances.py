"""What decides where something is to be random: seeds, so that a storm can be repeated."""

from __future__ import annotations

import os
import random


def chance_of(seed: int) -> random.Random:
    """Return what decides, by a seed; the variable CHAOS_SEED, by default 0, makes it another."""
    return random.Random(seed + 1_000 * int(os.environ.get("CHAOS_SEED", "0")))
