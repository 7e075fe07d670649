"""The promises that `make fuzz` looks for breaches of, on its seeds and what is near them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.fuzz_targets import SEEDS, TARGETS
from support.fuzzing import examples


def test_every_target_has_seeds():
    """And no seeds are left of one that is gone."""
    assert SEEDS.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
@examples(100)
@given(data=st.data())
def test_no_bytes_break_the_promise(name, data):
    """Any bytes, and seeds in which some are changed."""
    seed = data.draw(st.sampled_from(SEEDS[name]))
    TARGETS[name](seed)
    at = data.draw(st.integers(0, len(seed)))
    TARGETS[name](seed[:at] + data.draw(st.binary(max_size=12)) + seed[at + 1 :])
    TARGETS[name](data.draw(st.binary()))


@example(data=b'{"run_id": ' + b"9" * 10_000 + b"}")
@examples(1)
@given(data=st.just(b"{}"))
def test_an_id_of_ten_thousand_digits_is_read_or_refused(data):
    """It fails the job alone."""
    TARGETS["body"](data)
