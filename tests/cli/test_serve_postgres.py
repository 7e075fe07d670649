"""`meshhook serve-postgres`: what it refuses before it starts a server."""

from __future__ import annotations


def test_without_a_password_it_says_where_to_put_one(cli, monkeypatch, tmp_path):
    """The message names the variable."""
    monkeypatch.delenv("MESHHOOK_POSTGRES_PASSWORD", raising=False)
    ended = cli("serve-postgres", str(tmp_path / "data"))
    assert ended.code == 2
    assert "MESHHOOK_POSTGRES_PASSWORD" in ended.err
    assert not (tmp_path / "data").exists()


def test_a_setting_without_a_value_is_refused(cli, monkeypatch, tmp_path):
    """--set needs NAME=VALUE."""
    monkeypatch.setenv("MESHHOOK_POSTGRES_PASSWORD", "long enough")
    ended = cli("serve-postgres", str(tmp_path / "data"), "--set", "shared_buffers")
    assert ended.code == 2
    assert "NAME=VALUE" in ended.err
