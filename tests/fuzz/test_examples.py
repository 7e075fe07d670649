"""What `make test` tries does not depend on what else it runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.fuzzing import FACTOR, examples


def _tried() -> list[tuple[int, str]]:
    tried = []

    @examples(300)
    @given(st.integers(), st.text())
    def try_it(number: int, text: str) -> None:
        tried.append((number, text))

    try_it()
    return tried


@pytest.mark.skipif(FACTOR > 1, reason="the long form tries other examples each time")
def test_examples_do_not_depend_on_the_modules_that_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of constants that is imported between two runs of a property changes nothing."""
    before = _tried()
    file = tmp_path / "shop.py"
    file.write_text("\n".join(f"N{n} = {n * 1_000_003}; T{n} = 'text {n}'" for n in range(300)))
    spec = importlib.util.spec_from_file_location("shop", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "shop", module)
    assert _tried() == before
