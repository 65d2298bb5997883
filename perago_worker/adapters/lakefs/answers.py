"""What became of a request: a success, or what the SDK, urllib3 or the standard library raised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from perago_worker.adapters.http_pools import CannotConnectError
from perago_worker.adapters.lakefs.mapping import (
    Failure,
    NoAnswer,
    NotSent,
    ToError,
    answered,
    one_line,
)
from perago_worker.adapters.lakefs.sdk import ApiException


@contextmanager
def translated(into: ToError) -> Iterator[None]:
    """Let no exception of the SDK, urllib3 or a connection out: raise what `into` makes of it.

    Nothing but requests may be done within: what a file raises would be taken for the server's.
    """
    try:
        yield
    except ApiException as error:
        raise into(_failure(error)) from error
    except (NewConnectionError, ConnectTimeoutError) as error:
        raise into(NotSent(_describe(error))) from error
    except CannotConnectError as error:
        raise into(NotSent(_describe(error.__cause__ or error))) from error
    except (HTTPError, HTTPException, OSError, ValueError, TypeError) as error:
        # The last two: an answer that was not what the SDK or pydantic expected.
        raise into(NoAnswer(_describe(error))) from error


def _failure(error: ApiException) -> Failure:
    if not error.status:  # the SDK's form of a TLS failure
        return NoAnswer(one_line(str(error.reason)))
    return answered(error.status, error.body)


def _describe(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {error}")


def checked(response: BaseHTTPResponse) -> BaseHTTPResponse:
    """Return an answer that is a success.

    Raises:
        ApiException: It is none.
    """
    if 200 <= response.status < 300:
        return response
    raise refusal(response.status, response.reason, response.data)


def refusal(status: int, reason: str | None, body: bytes) -> ApiException:
    """Return the SDK's exception for an answer that is no success."""
    error = ApiException(status=status, reason=reason)
    error.body = body.decode(errors="replace")
    return error
