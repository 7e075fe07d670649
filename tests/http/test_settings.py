"""Settings from arguments and from the environment."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from meshhook import InvalidHandlerError, InvalidSettingError
from meshhook.http import WebhookHandler, WebhookSettings
from support.receivers import SECRET, make_handler

NETWORKS = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def test_the_defaults_are_safe() -> None:
    """Only https, no network inside, no redirects."""
    settings = WebhookHandler(secret=SECRET).settings
    assert not settings.allow_http
    assert settings.allowed_networks == ()
    assert settings.follow_redirects == 0


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are separated by commas; an argument comes before the environment."""
    monkeypatch.setenv("MESHHOOK_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("MESHHOOK_WEBHOOK_ALLOW_HTTP", "true")
    monkeypatch.setenv("MESHHOOK_WEBHOOK_ALLOWED_NETWORKS", "10.0.0.0/8, fd00::/8")
    monkeypatch.setenv("MESHHOOK_WEBHOOK_ALLOWED_PORTS", "443,8443")
    monkeypatch.setenv("MESHHOOK_WEBHOOK_TOTAL_TIMEOUT_SECONDS", "3")
    settings = WebhookHandler(total_timeout_seconds=4).settings
    assert settings.allow_http
    assert settings.allowed_networks == NETWORKS
    assert sorted(settings.allowed_ports or []) == [443, 8443]
    assert settings.total_timeout_seconds == 4


def test_every_setting_is_an_argument() -> None:
    """The two lists do not drift apart."""
    names = set(WebhookSettings.model_fields) - {"secret"}
    from meshhook.http.settings import WebhookOptions  # noqa: PLC0415 - private to its module

    assert set(WebhookOptions.__annotations__) == names


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("allow_http", "perhaps", "allow_http='perhaps': "),
        ("allowed_ports", [0], "allowed_ports=[0]: "),
        ("allowed_networks", ["10.0.0.1/8"], "has host bits set"),
        ("allowed_networks", "example.com", "allowed_networks='example.com': "),
        ("total_timeout_seconds", 0, "total_timeout_seconds=0: "),
        ("total_timeout_seconds", float("nan"), "total_timeout_seconds=nan: "),
        ("follow_redirects", 6, "follow_redirects=6: "),
        ("user_agent", "x\r\ny", "user_agent="),
        ("timeout", 3, "has no setting 'timeout'; it has: allow_http, allowed_ports, "),
    ],
)
def test_a_wrong_argument_is_named(name: str, value: Any, message: str) -> None:
    """With the value received and the rule."""
    with pytest.raises(InvalidSettingError, match=r".") as caught:
        make_handler(**{name: value})
    assert message in str(caught.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the value received."""
    monkeypatch.setenv("MESHHOOK_WEBHOOK_ALLOWED_PORTS", "https")
    with pytest.raises(
        InvalidSettingError, match="environment variable MESHHOOK_WEBHOOK_ALLOWED_PORTS='https': "
    ):
        WebhookHandler(secret=SECRET)


def test_authorities_that_cannot_be_read_are_an_error_at_once(tmp_path: Path) -> None:
    """Not one of each delivery."""
    for path in (tmp_path / "none.pem", tmp_path):
        with pytest.raises(InvalidSettingError, match=r"^ca_file="):
            make_handler(ca_file=path)
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(InvalidSettingError, match=r"^ca_file=.*no certificates can be read"):
        make_handler(ca_file=tmp_path / "empty.pem")


@pytest.mark.parametrize("name", ["on_gone", "lookup"])
def test_a_callback_is_a_function(name: str) -> None:
    """Else the handler is refused when it is made."""
    options: dict[str, Any] = {name: 1}
    with pytest.raises(InvalidHandlerError, match=f"{name} is a function, got int"):
        WebhookHandler(secret=SECRET, **options)
