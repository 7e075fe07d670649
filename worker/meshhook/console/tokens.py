"""Tokens: that a form was made for this user's session, and that a notice is our own."""

from __future__ import annotations

import hashlib
import re
import secrets

from itsdangerous import BadSignature, Signer, URLSafeSerializer

_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")


class Tokens:
    """Makes and checks tokens with the secret of the console."""

    def __init__(self, secret: str | None) -> None:
        """Take the secret; None makes a random one."""
        key = secret or secrets.token_urlsafe(32)
        self._forms = Signer(key, salt="meshhook.console.form", digest_method=hashlib.sha256)
        self._notices = URLSafeSerializer(key, salt="meshhook.console.notice")

    @staticmethod
    def new_session() -> str:
        """Return what a browser is known again by."""
        return secrets.token_urlsafe(32)

    @staticmethod
    def is_session(text: str) -> bool:
        """Return whether a cookie may be one of ours."""
        return _SESSION.fullmatch(text) is not None

    def form_token(self, session: str, user: str) -> str:
        """Return the token for the forms of a user's session."""
        return self._forms.get_signature(f"{session}\n{user}").decode()

    def is_form_token(self, token: str, session: str, user: str) -> bool:
        """Return whether a form was made for that session and user."""
        try:
            return self._forms.verify_signature(f"{session}\n{user}", token)
        except (ValueError, UnicodeError):
            return False

    def signed_notice(self, notice: dict[str, str]) -> str:
        """Return a notice for the next page, as text for its address."""
        return str(self._notices.dumps(notice))

    def notice(self, text: str) -> dict[str, str] | None:
        """Return the notice in an address; None if nobody of ours wrote it."""
        try:
            found = self._notices.loads(text)
        except BadSignature:
            return None
        return found if isinstance(found, dict) else None
