"""Database URLs: what is taken from them, what is refused, and that no error shows the password."""

from __future__ import annotations

import pickle
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from meshhook.errors import InvalidSettingError
from meshhook.postgres.url import Host, SocketOptions, parse_database_url

BASE = "postgresql://me:pw@db.example:6543/jobs"


def test_a_plain_url_is_read() -> None:
    """Escaped characters of login and database are put back."""
    found = parse_database_url("postgres://m%40e:p%2Fw%23@db.example:6543/jo%62s")
    assert (found.user, found.password, found.database) == ("m@e", "p/w#", "jobs")
    assert found.hosts == (Host("db.example", 6543),)
    assert found.server_settings == {}
    assert found.place == "database 'jobs' at db.example:6543"


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql:///jobs", ()),
        ("postgresql://me@/jobs", ()),
        ("postgresql://db/jobs", (Host("db", None),)),
        ("postgresql://a:1,b:2,c/jobs", (Host("a", 1), Host("b", 2), Host("c", None))),
        ("postgresql://[::1]:5433,b/jobs", (Host("::1", 5433), Host("b", None))),
        ("postgresql:///jobs?host=a,b&port=1,2", (Host("a", 1), Host("b", 2))),
        ("postgresql:///jobs?host=a,b&port=7", (Host("a", 7), Host("b", 7))),
        ("postgresql:///jobs?port=7", (Host("localhost", 7),)),
        ("postgresql:///jobs?host=/run/pg", (Host("/run/pg", None),)),
        ("postgresql:///jobs?hostaddr=::1", (Host("::1", None),)),
        ("postgresql://%2Frun%2Fpg/jobs", (Host("/run/pg", None),)),
    ],
)
def test_hosts_and_ports(url: str, hosts: tuple[Host, ...]) -> None:
    """They stand before the path or in parameters, one or several."""
    assert parse_database_url(url).hosts == hosts


def test_login_and_name_in_parameters() -> None:
    """As libpq takes them; what stands before the path comes first."""
    found = parse_database_url("postgresql://db?user=me&password=p%26w&dbname=jobs")
    assert (found.user, found.password, found.database) == ("me", "p&w", "jobs")
    found = parse_database_url(BASE + "?user=you&password=x&dbname=others&database=more")
    assert (found.user, found.password, found.database) == ("me", "pw", "jobs")
    assert found.server_settings == {}


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=require&channel_binding=prefer",
        "sslmode=verify-full&sslrootcert=/ca.pem&channel_binding=require",
        "sslrootcert=system&channel_binding=require",
        "gssencmode=disable&gssdelegation=0&krbsrvname=postgres",
        "keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3",
        "connect_timeout=0&tcp_user_timeout=5000",
        "target_session_attrs=read-write&load_balance_hosts=disable",
        "client_encoding=utf8&fallback_application_name=psql&sslcompression=0&sslsni=1",
        "sslmode=no-verify",
        "ssl=true",
        "requiressl=1",
        "sslnegotiation=postgres&ssl_min_protocol_version=TLSv1.2&passfile=/p",
        "min_protocol_version=3.0&max_protocol_version=latest&replication=false&require_auth=",
    ],
)
def test_parameters_of_libpq_are_no_settings_of_the_session(query: str) -> None:
    """The server, which would refuse them, never sees them."""
    assert parse_database_url(f"{BASE}?{query}").server_settings == {}


def test_what_parameters_come_to() -> None:
    """Each has its effect."""
    found = parse_database_url(
        BASE + "?connect_timeout=3&application_name=shop&target_session_attrs=prefer-standby"
        "&keepalives_idle=30&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=5000"
        "&options=-c%20synchronous_commit%3Doff&statement_timeout=9s&a.b=c"
    )
    assert found.connect_timeout_seconds == 3
    assert found.application_name == "shop"
    assert found.target_session_attrs == "prefer-standby"
    assert found.socket_options == SocketOptions(True, 30, 5, 3, 5000)
    assert found.server_settings == {
        "options": "-c synchronous_commit=off",
        "statement_timeout": "9s",
        "a.b": "c",
    }
    assert parse_database_url(BASE + "?keepalives=0").socket_options == SocketOptions(False)
    for text, mode in (("ssl=true", "require"), ("ssl=0", "disable"), ("requiressl=1", "require")):
        assert parse_database_url(f"{BASE}?{text}").driver_parameters == {"sslmode": mode}
    assert parse_database_url(BASE + "?sslmode=no-verify").driver_parameters == {
        "sslmode": "require"
    }


def test_the_systems_authorities() -> None:
    """`sslrootcert=system` checks name and certificate by what the system trusts."""
    found = parse_database_url(
        BASE + "?sslrootcert=system&sslmode=verify-full&ssl_min_protocol_version=TLSv1.3"
    )
    arguments = found.driver_arguments()
    context = arguments.pop("ssl")
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert arguments["dsn"] == "postgresql://"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("channel_binding=require&sslmode=prefer", "channel_binding .*: require needs TLS"),
        ("gssencmode=require", "gssencmode .*: require is not possible"),
        ("sslmode=strict", "sslmode .*: one of disable, allow"),
        ("sslrootcert=system&sslmode=require", "sslrootcert .*: system goes with"),
        ("sslrootcert=/ca.pem", "sslrootcert .*: nothing is verified with sslmode=prefer"),
        ("sslcrl=/crl.pem&sslmode=allow", "sslcrl .*: nothing is verified with sslmode=allow"),
        ("ssl_min_protocol_version=TLSv9", "ssl_min_protocol_version .*: one of TLSv1, "),
        ("sslnegotiation=quick", "sslnegotiation .*: one of postgres, direct"),
        ("sslnegotiation=direct", "sslnegotiation .*: direct needs sslmode=require"),
        ("channel_binding=always", "channel_binding .*: one of disable, prefer, require"),
        ("channel_binding=require&host=/run/pg", "channel_binding .*: .* a local socket"),
        ("sslcertmode=require", "sslcertmode .*: the driver"),
        ("sslkeylogfile=/keys", "sslkeylogfile .*: the driver"),
        ("gsslib=other", "gsslib .*: one of gssapi, sspi"),
        ("ssl=perhaps", "ssl .*: true or false"),
        ("connect_timeout=soon", "connect_timeout .*: a whole number"),
        ("keepalives_idle=-1", "keepalives_idle .*: a whole number from 0"),
        ("target_session_attrs=master", "target_session_attrs .*: one of any, primary"),
        ("load_balance_hosts=random", "load_balance_hosts .*: hosts are tried in their order"),
        ("client_encoding=latin1", "client_encoding .*: text is always sent as UTF-8"),
        ("replication=database", "replication .*: a session for replication"),
        ("require_auth=scram-sha-256", "require_auth .*: the driver .* sslmode=verify-full"),
        ("requirepeer=postgres", "requirepeer .*: the driver"),
        ("sslcrldir=/crl", "sslcrldir .*: the driver"),
        ("oauth_issuer=x", "oauth_issuer .*: the driver"),
        ("hostaddr=1.2.3.4&host=x", "hostaddr .*: not together with host"),
        ("pgbouncer=true", "pgbouncer .*: .*MESHHOOK_POOLED"),
        ("connection_limit=5", "connection_limit .*: a setting of other drivers"),
        ("currentSchema=x", "currentSchema .*: a setting of JDBC"),
        ("host=a,b&port=1,2,3", "3 ports do not fit 2 hosts"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(query: str, message: str) -> None:
    """Nothing that was asked for is left out in silence."""
    base = "postgresql://me:pw@/jobs" if "host=" in query else BASE
    with pytest.raises(InvalidSettingError, match=message) as caught:
        parse_database_url(f"{base}?{query}")
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PGREQUIREAUTH", "scram-sha-256", r"require_auth \(or PGREQUIREAUTH\) .*: the driver"),
        ("PGGSSENCMODE", "require", "gssencmode .*: require is not possible"),
        ("PGREQUIREPEER", "postgres", "requirepeer .*: the driver"),
        ("PGSSLCRLDIR", "/crl", "sslcrldir .*: the driver"),
        ("PGSSLCERTMODE", "require", "sslcertmode .*: the driver"),
        ("PGCHANNELBINDING", "require", "channel_binding .*: require needs TLS"),
        ("PGSSLMODE", "strict", "sslmode .*: one of disable, allow"),
    ],
)
def test_what_the_environment_asks_for_is_not_left_out_either(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    """A variable of libpq that asks for more safety counts as the parameter does."""
    monkeypatch.setenv(variable, value)
    mode = "" if variable == "PGSSLMODE" else "?sslmode=disable"
    with pytest.raises(InvalidSettingError, match=message):
        parse_database_url(BASE + mode)


def test_the_url_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And roots of the environment are no mistake of a URL that wants no TLS."""
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", "/ca.pem")
    assert parse_database_url(BASE).driver_parameters == {
        "sslmode": "verify-full",
        "sslrootcert": "/ca.pem",
    }
    for query, mode in (("sslmode=disable", "disable"), ("ssl=false", "disable")):
        found = parse_database_url(f"{BASE}?{query}").driver_parameters
        assert found["sslmode"] == mode
    assert parse_database_url(BASE + "?sslmode=prefer").driver_parameters == {"sslmode": "prefer"}
    monkeypatch.setenv("PGSSLROOTCERT", "system")
    assert parse_database_url(BASE).uses_system_roots


def test_direct_negotiation_names_the_protocol_with_the_systems_authorities() -> None:
    """A server refuses one that does not."""
    arguments = parse_database_url(
        BASE + "?sslrootcert=system&sslnegotiation=direct"
    ).driver_arguments()
    leaf = trustme.CA().issue_cert("db.example")
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.set_alpn_protocols(["postgresql"])
    leaf.configure_cert(server_context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = arguments["ssl"].wrap_bio(to_client, to_server, server_hostname="db.example")
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for each in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            each.do_handshake()
    assert server.selected_alpn_protocol() == "postgresql"


@pytest.mark.parametrize(
    "password",
    [
        "to@p:se@cret",
        "tops@ecret",
        "tops/ecret",
        "1/tops@ecret",
        "12345/tops?ecret",
        "tops?ecret",
        "tops?ecret=1",
        "5432?tops=ecret",
        "x@h?tops=ecret",
        "tops#ecret",
        "[tops]ecret",
        "tops[ecret",
        "tops\necret",
        "@/tops/ecret",
        "tops&ecret/?",
    ],
)
@pytest.mark.parametrize("tail", ["@db.example/jobs", "@db.example:5432/jobs?sslmode=require"])
def test_a_raw_character_in_a_password_is_found(password: str, tail: str) -> None:
    """No part of it is shown or taken for a host, and the error says how to write it."""
    with pytest.raises(InvalidSettingError, match="write special characters as in %40") as caught:
        parse_database_url(f"postgresql://me:{password}{tail}")
    shown = str(caught.value)
    assert "tops" not in shown
    assert "ecret" not in shown
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("password", ["p:w", "p%w", "p+w", "p w", "p'w\"", "pé", "p;w$!*()=~"])
def test_harmless_raw_characters_are_taken_as_they_are(password: str) -> None:
    """What moves no border needs no escape."""
    assert parse_database_url(f"postgresql://me:{password}@db/jobs").password == password


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "me:secret@db/jobs",
        "host=db password=secret",
        "mysql://me:secret@db/jobs",
        "postgresql+asyncpg://me:secret@db/jobs",
        "postgresql://me:secret@db:99999/jobs",
        "postgresql://me:secret@db:0/jobs",
        "postgresql://me:secret@db:9x/jobs",
        "postgresql://me:secret@[::1/jobs",
        "postgresql://me:secret@db/jobs?sslmode",
        "postgresql://me:secret@db/jobs?a-b=secret",
        "postgresql://me%3Asecret@db/jobs",
        "postgresql:///me:secret",
    ],
)
def test_what_is_no_url_of_postgresql(url: str) -> None:
    """The error has the right form and nothing of the URL."""
    with pytest.raises(InvalidSettingError, match="user:password@host:port/database") as caught:
        parse_database_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [None, b"postgresql://me:secret@db/jobs", 5, object()])
def test_what_is_no_text(value: Any) -> None:
    """The error names the type."""
    with pytest.raises(InvalidSettingError, match="the database URL is text, got ") as caught:
        parse_database_url(value)
    assert "secret" not in str(caught.value)


def test_nothing_secret_is_shown() -> None:
    """A URL that was read can be logged, and cannot be sent anywhere."""
    found = parse_database_url(BASE.replace("pw", "secret"))
    assert "secret" not in repr(found) + str(found) + found.place
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(found)


def test_a_scheme_that_is_none_is_not_shown() -> None:
    """It may be the end of a password."""
    with pytest.raises(InvalidSettingError) as caught:
        parse_database_url("topsecret://x@db/jobs")
    assert "topsecret" not in str(caught.value)
    with pytest.raises(InvalidSettingError, match="starts with mysql://"):
        parse_database_url("mysql://me:topsecret@db/jobs")


# --- Connection service files ------------------------------------------------------------------


def test_a_service_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says counts where the URL says nothing, parameters of libpq included."""
    file = tmp_path / "services"
    file.write_text(
        "[shop]\nhost=db.example\nport=6543\ndbname=jobs\nuser=me\npassword=p%w\n"
        "sslmode=require\nconnect_timeout=3\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    found = parse_database_url("postgresql://?service=shop&sslmode=verify-full")
    assert found.hosts == (Host("db.example", 6543),)
    assert (found.user, found.password, found.database) == ("me", "p%w", "jobs")
    assert found.connect_timeout_seconds == 3
    assert found.driver_parameters == {"sslmode": "verify-full"}
    monkeypatch.delenv("PGSERVICEFILE")
    again = parse_database_url(f"postgresql:///other?service=shop&servicefile={file}")
    assert again.database == "other"
    assert again.server_settings == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "service .*: there is no file"),
        ("[other]\nhost=x\n", "service .*: the file .* has no such service"),
        ("host=x\n", "service .*: the file .* cannot be read"),
    ],
)
def test_a_service_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, message: str
) -> None:
    """The default database is not taken in its place."""
    file = tmp_path / "services"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    with pytest.raises(InvalidSettingError, match=message):
        parse_database_url("postgresql://?service=shop")


@pytest.mark.parametrize("sslmode", ["", "sslmode=require&", "sslmode=verify-ca&"])
def test_binding_the_channel_becomes_proving_the_server(sslmode: str) -> None:
    """A URL as Neon gives it verifies the certificate in full, by the system's authorities."""
    url = parse_database_url(f"postgresql://u:p@ep-1.neon.tech/db?{sslmode}channel_binding=require")
    assert url.uses_system_roots
    named = f"postgresql://u:p@h/db?{sslmode}channel_binding=require&sslrootcert=/ca.pem"
    parameters = parse_database_url(named).driver_parameters
    assert (parameters["sslmode"], parameters["sslrootcert"]) == ("verify-full", "/ca.pem")
