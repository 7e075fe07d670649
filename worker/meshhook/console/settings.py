"""The settings of the console, checked once where they enter."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted

MIN_SECRET_LENGTH = 16

_PATH = re.compile(r"(body|headers)(\.([^.\s]+))+")
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_HOST = re.compile(r"[\w.-]+", re.ASCII)
_PUBLIC_PATH = re.compile(r"(/[\w.~-]+)*/?", re.ASCII)
_PLACE = re.compile(r"\{([a-z_]+)\}")


def _parts(value: Any) -> Any:
    """Return a list from text with commas between its parts."""
    if isinstance(value, str):
        return tuple(each.strip() for each in value.split(",") if each.strip())
    return value


def _checked_redaction(path: str) -> str:
    if not _PATH.fullmatch(path):
        raise ValueError(
            "a path starts with body. or headers. and names fields, or * for each, as in "
            "body.payload.card.number"
        )
    return path


def _checked_origin(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("it is the address of the console in the browser, as https://host/path")
    if not _PUBLIC_PATH.fullmatch(parts.path):
        raise ValueError("the path in it is made of letters, digits and the signs . _ ~ -")
    return url.rstrip("/")


def _checked_host(host: str) -> str:
    if _HOST.fullmatch(host):
        return host
    try:
        return str(ip_address(host.strip("[]")))
    except ValueError:
        # Requests are compared by their name: with a port, none would ever fit.
        raise ValueError("a host is a name or an address, without a port") from None


def _checked_template(url: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise ValueError("it starts with https:// or http://")
    unknown = set(_PLACE.findall(url)) - {"trace_id", "error_type", "queue"}
    if unknown:
        raise ValueError(
            f"unknown place {{{min(unknown)}}}: trace_id, error_type and queue are known"
        )
    return url


def _checked_header(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise ValueError("a header's name is letters, digits and -")
    return name.lower()


def _checked_networks(values: Any) -> Any:
    return tuple(ip_network(each) for each in _parts(values))


_Path = Annotated[str, AfterValidator(_checked_redaction)]
_Template = Annotated[str, AfterValidator(_checked_template)]
_Header = Annotated[str, AfterValidator(_checked_header)]
_Texts = Annotated[tuple[str, ...], BeforeValidator(_parts)]
_Hosts = Annotated[
    tuple[Annotated[str, AfterValidator(_checked_host)], ...], BeforeValidator(_parts)
]
_Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_checked_networks)]


class ConsoleSettings(BaseModel):
    """Who may use the console, and what it shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    authentication: Literal["none", "basic", "proxy"] = "none"
    """How users are known. `none`, the default: not at all, which works on the loopback only.
    `basic`: by name and password. `proxy`: by headers of a proxy that has authenticated them."""
    allow_unauthenticated: bool = False
    """Whether `none` also works from other machines: everybody who reaches the console may then
    change everything. Default false."""
    read_only: bool = False
    """Whether everybody is a viewer. Default false."""
    users: SecretStr | None = None
    """For `basic`: a line `NAME:ROLE:HASH` for each user, ROLE viewer or operator, HASH as
    `meshhook console --hash-password` prints it."""
    proxy_addresses: _Networks = ()
    """For `proxy`: from which addresses or networks its headers are believed."""
    user_header: _Header = "x-forwarded-user"
    """For `proxy`: the header with the user's name. Default `X-Forwarded-User`."""
    groups_header: _Header = "x-forwarded-groups"
    """For `proxy`: the header with the user's groups, with commas between them. Default
    `X-Forwarded-Groups`."""
    operator_groups: _Texts = ()
    """For `proxy`: whoever is in one of these groups may change things. Default none: nobody."""
    viewer_groups: _Texts = ()
    """For `proxy`: whoever is in one of these groups may look. Default none: every user."""
    public_url: Annotated[str, AfterValidator(_checked_origin)] | None = None
    """The address of the console in the browser. With https, cookies are sent over TLS only. It may
    have a path, which a proxy in front passes on or takes off. Default: that of each request."""
    allowed_hosts: _Hosts = ()
    """Names that requests may have in `Host`, beside that of `public_url`, without ports. Default:
    any; without authentication only those of the loopback, and with `allow_unauthenticated` also
    addresses and names without a domain, so that no website gives it a name of its own."""
    secret: SecretStr | None = None
    """What the tokens in forms are made with, 16 characters or more. Default: random for each
    process, so that forms opened before a restart must be loaded again."""
    redact: Annotated[tuple[_Path, ...], BeforeValidator(_parts)] = ()
    """Places in bodies and headers that are not shown, such as `body.payload.card.number`."""
    trace_url: _Template | None = None
    """The address of a trace, with `{trace_id}` in it. Default: no links."""
    runbook_url: _Template | None = None
    """The address of a runbook, with `{error_type}` or `{queue}` in it. Default: no links."""
    target_seconds: Annotated[float, Field(gt=0, le=604_800)] = 60
    """How long a job of a queue without a JobQueue may wait before it is late, in seconds. Default
    60."""
    refresh_seconds: Annotated[float, Field(ge=1, le=3_600)] = 5
    """How often pages that are open are refreshed, and at the most the database is read for them,
    in seconds. Default 5."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.authentication == "basic" and self.users is None:
            raise ValueError("basic needs users, made with: meshhook console --hash-password")
        if self.authentication == "proxy" and not self.proxy_addresses:
            raise ValueError("proxy needs proxy_addresses: from where headers are believed")
        if self.secret is not None and len(self.secret.get_secret_value()) < MIN_SECRET_LENGTH:
            raise ValueError(f"secret has at least {MIN_SECRET_LENGTH} characters")
        return self

    @classmethod
    def of(cls, **values: Any) -> ConsoleSettings:
        """Return settings, checked.

        Raises:
            InvalidSettingError: naming the setting and what is wrong.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            name = ".".join(str(each) for each in first["loc"][:1])
            message = first["msg"].removeprefix("Value error, ")
            got = "" if name in {"", "users", "secret"} else f", got {quoted(values.get(name))}"
            raise InvalidSettingError(f"{name or 'console'}: {message}{got}") from None

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach it over TLS."""
        return self.public_url is not None and self.public_url.startswith("https:")

    @property
    def public_path(self) -> str:
        """The path of its address in the browser, without a slash at the end; often empty."""
        return "" if self.public_url is None else urlsplit(self.public_url).path

    @property
    def needs_loopback(self) -> bool:
        """Whether only this machine may use it."""
        return self.authentication == "none" and not self.allow_unauthenticated

    def check_address(self, address: str) -> None:
        """Check that the console may listen on an address.

        Raises:
            InvalidSettingError: if everybody on the network could use it.
        """
        if not self.needs_loopback or is_loopback(address):
            return
        raise InvalidSettingError(
            f"without authentication the console listens on the loopback only, not on "
            f"{quoted(address)}. Set MESHHOOK_CONSOLE_AUTHENTICATION to basic or proxy; or let "
            "everybody who reaches it replay and delete jobs: --allow-unauthenticated"
        )


def is_loopback(address: str) -> bool:
    """Return whether an address is one that only this machine reaches."""
    if address == "localhost":
        return True
    try:
        found = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
