"""What goes wrong with a request to the API server, as the operator's own errors."""

from __future__ import annotations

from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx2
from lightkube import ApiError

from meshhook_operator.errors import ClusterRefusedError, ClusterUnavailableError
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise a ClusterError for what lightkube and its HTTP client raise."""
    try:
        yield
    except ApiError as error:
        code = int(error.status.code or 0)
        message = capped(str(error.status.message or error))
        if code >= HTTPStatus.INTERNAL_SERVER_ERROR or code == HTTPStatus.TOO_MANY_REQUESTS:
            raise ClusterUnavailableError(f"the API server cannot answer now: {message}") from error
        raise ClusterRefusedError(f"the API server refused: {message}", code) from error
    except httpx2.HTTPStatusError as error:  # from a proxy, or with no body
        code = error.response.status_code
        if code >= HTTPStatus.INTERNAL_SERVER_ERROR or code == HTTPStatus.TOO_MANY_REQUESTS:
            raise ClusterUnavailableError(f"the API server cannot answer now: {error}") from error
        raise ClusterRefusedError(f"the API server refused: {error}", code) from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise ClusterUnavailableError(f"the API server cannot be reached: {reason}") from error
