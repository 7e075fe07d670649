"""docs/operator.md lists all fields, conditions and settings."""

from __future__ import annotations

import re
from pathlib import Path

from meshhook_operator.api.reference import with_tables
from meshhook_operator.settings import OperatorSettings

GUIDE = (Path(__file__).parents[2] / "docs" / "operator.md").read_text()
SOURCES = Path(__file__).parents[2] / "operator" / "meshhook_operator"


def test_the_tables_are_those_of_the_crd():
    """The tables are generated: python -m meshhook_operator.api.reference docs/operator.md."""
    assert with_tables(GUIDE) == GUIDE
    assert "| `queueName` |" in GUIDE
    assert "| `conditions[].reason` |" in GUIDE


def test_every_reason_is_explained():
    """Every reason of a condition is explained in the guide."""
    text = "\n".join(path.read_text() for path in SOURCES.glob("*.py"))
    reasons = set(re.findall(r'reason="([A-Z]\w+)"', text))
    assert "SecretNotFound" in reasons
    missing = {reason for reason in reasons if f"`{reason}`" not in GUIDE}
    assert missing == set()


def test_every_setting_is_explained():
    """Each environment variable of the operator is in the guide."""
    for name in OperatorSettings.model_fields:
        assert f"`MESHHOOK_{name.upper()}`" in GUIDE
