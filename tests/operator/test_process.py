"""The operator as a program: its settings, and its error messages."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from meshhook.errors import InvalidSettingError
from meshhook_operator.settings import load_operator_settings


def test_defaults(monkeypatch):
    """By default it watches the whole cluster, and serves metrics on port 9464."""
    for name in os.environ:
        if name.startswith("MESHHOOK_"):
            monkeypatch.delenv(name)
    settings = load_operator_settings()
    assert settings.namespaces == []
    assert settings.metrics_port == 9464


def test_namespaces(monkeypatch):
    """Several namespaces are separated by commas."""
    monkeypatch.setenv("MESHHOOK_OPERATOR_NAMESPACES", " shop, mail-2 ,")
    assert load_operator_settings().namespaces == ["shop", "mail-2"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MESHHOOK_OPERATOR_NAMESPACES", "shop mail"),
        ("MESHHOOK_OPERATOR_NAMESPACES", "Shop"),
        ("MESHHOOK_METRICS_PORT", "65536"),
        ("MESHHOOK_LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch, variable, value):
    """The message has the variable and the value."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettingError, match=f"{variable}='{value}'"):
        load_operator_settings()


@pytest.mark.parametrize(
    ("argument", "code", "said"),
    [("--help", 0, "MESHHOOK_OPERATOR_NAMESPACES: The namespaces to watch"), ("--no", 2, "--no")],
)
async def test_arguments(argument, code, said):
    """`--help` lists the variables; an unknown option is refused, and nothing starts."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "meshhook_operator",
        argument,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == code
    assert said in output.decode()


async def test_without_a_cluster(tmp_path: Path):
    """Without a service account or a kubeconfig it fails with a one-line message."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "meshhook_operator",
        env=os.environ | {"KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()
    assert process.returncode == 1
    assert error.decode().startswith("meshhook-operator: no cluster is configured")
    assert error.decode().count("\n") == 1
