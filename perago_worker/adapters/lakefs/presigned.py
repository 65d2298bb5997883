"""Objects read and written at the object store itself, where lakeFS signs addresses for that.

It spares lakeFS the bytes. Everything is asked of lakeFS first, so that what it permits and what it
does not know is answered by it alone. Where an address leads nowhere, the bytes go through lakeFS
as they would otherwise, and addresses are not asked for again for a while.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from pydantic import BaseModel, ValidationError
from urllib3.exceptions import HTTPError

from perago_worker.adapters.lakefs.mapping import (
    Entry,
    Failure,
    NoAnswer,
    ToError,
    store_error,
)
from perago_worker.adapters.lakefs.settings import LakeFSSettings
from perago_worker.adapters.lakefs.storage import Storage, Unusable
from perago_worker.adapters.lakefs.streams import SourceError
from perago_worker.errors import NotFound, StoreError, StoreUnavailable
from perago_worker.events import Listener
from perago_worker.ports import Digest, Digested, Rewindable

if TYPE_CHECKING:  # loading the SDK takes a second; see `LakeFSStore`
    from perago_worker.adapters.lakefs.transport import Transport

CONTENT_TYPE = "application/octet-stream"

PAUSE_S = 60.0
"""How long no address is asked for after one has led nowhere, or after lakeFS did not say whether
it signs any."""

NOT_FOUND = 404

B = TypeVar("B", bound=BaseModel)
Path = tuple[str, ...]


class _StorageConfig(BaseModel):
    blockstore_type: str = ""
    pre_sign_support: bool = False
    pre_sign_multipart_upload: bool = False


class _Config(BaseModel):
    storage_config: _StorageConfig = _StorageConfig()


class _Place(BaseModel):
    physical_address: str
    presigned_url: str


class _Parts(BaseModel):
    physical_address: str
    presigned_urls: list[str]
    upload_id: str


class _Signed(BaseModel):
    presigned_url: str


class Presigned:
    """Reads and writes by signed addresses. Safe to use from any thread."""

    def __init__(
        self, transport: Transport, settings: LakeFSSettings, *, listener: Listener | None = None
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._storage = Storage(settings, listener=listener)
        self._asking = threading.Lock()
        self._offer: _StorageConfig | None = None if settings.presign else _StorageConfig()
        self._paused_until = 0.0
        self._tags_are_checksums = True

    def pays(self, size: int | None) -> bool:
        """Tell whether an object of this size is worth the calls that its address takes.

        One whose size is not known is.
        """
        return size is None or size >= self._settings.presign_from_bytes

    def download(
        self,
        *path: str,
        key: str,
        sink: BinaryIO,
        start: int,
        size: int | None,
        into: ToError,
    ) -> int | None:
        """Write an object, or a range of it, to `sink`; None when it has to be read elsewhere.

        Returns:
            The number of bytes; None when nothing was written to `sink`.
        """
        if not self._offered().pre_sign_support:
            return None
        query = {"path": key, "presign": "true"}
        address = self._transport.redirection(*path, query=query, into=into)
        if address is None:
            self._pause()
            return None
        try:
            return self._storage.get(address, sink, start=start, size=size)
        except Unusable:
            self._pause()
            return None
        except HTTPError as error:
            raise into(NoAnswer(f"the object store: {type(error).__name__}")) from None

    def upload(
        self, *branch: str, key: str, source: BinaryIO, size: int, into: ToError
    ) -> Entry | None:
        """Store `size` bytes of `source`; None when they have to be sent elsewhere.

        lakeFS is told the checksum, as it cannot know it: the MD5, after it was compared with what
        the object store says it stored, which for most of them is that. Where it is not, nothing is
        written this way again.

        Returns:
            What lakeFS says was stored; None when nothing was read from `source`.
        """
        if not self.pays(size) or not self._tags_are_checksums:
            return None
        offer = self._offered()
        # Other object stores want headers of their own; reading needs none from any.
        if not offer.pre_sign_support or offer.blockstore_type != "s3":
            return None
        reader = _Reader(source)
        in_parts = size > self._settings.presign_part_bytes and offer.pre_sign_multipart_upload
        try:
            send = self._send_parts if in_parts else self._send
            place = send(branch, key, reader, size, into)
        except Unusable as unusable:
            self._pause()
            if not reader.used:
                return None
            raise into(NoAnswer(f"the object was not stored: {unusable}")) from None
        except SourceError as failed:
            raise failed.error from None
        checksum = reader.digest.hexdigest()
        return self._link(branch, key, place, checksum=checksum, size=size, into=into)

    def close(self) -> None:
        """Close idle connections now and busy ones when their calls end."""
        self._storage.close()

    def _offered(self) -> _StorageConfig:
        """Return what lakeFS says it signs; nothing while addresses are not to be asked for."""
        if time.monotonic() < self._paused_until:
            return _StorageConfig()
        with self._asking:  # one asks, and those who come meanwhile wait for the answer
            if self._offer is None:
                try:
                    body = self._transport.get("config", query={}, into=_hidden)
                    self._offer = _Config.model_validate_json(body).storage_config
                except (StoreError, ValidationError):  # an old server, or one that hides it from us
                    self._pause()
                    return _StorageConfig()
            return self._offer

    def _pause(self) -> None:
        self._paused_until = time.monotonic() + PAUSE_S

    def _send(self, branch: Path, key: str, reader: _Reader, size: int, into: ToError) -> str:
        query = {"path": key, "presign": "true"}
        body = self._transport.get(*branch, "staging", "backing", query=query, into=into)
        place = _read(_Place, body, into)
        self._put(place.presigned_url, reader, size, reader.digest, into)
        return place.physical_address

    def _send_parts(self, branch: Path, key: str, reader: _Reader, size: int, into: ToError) -> str:
        """Send one part after the other, since the source has to be read in order."""
        part_size = self._settings.presign_part_bytes
        path = (*branch, "staging", "pmpu")
        query = {"path": key, "parts": str(-(-size // part_size))}
        body = self._transport.send("POST", *path, query=query, body={}, into=into)
        parts = _read(_Parts, body, into)
        upload = partial(self._transport.send, query={"path": key}, into=into)
        end = (*path, parts.upload_id)
        where = {"physical_address": parts.physical_address}
        try:
            tags = []
            for number, address in enumerate(parts.presigned_urls, start=1):
                left = min(part_size, size - (number - 1) * part_size)
                sign = partial(upload, "PUT", *end, "parts", str(number), body=where, into=_hidden)
                tag = self._put_part(address, reader, left, sign, into)
                tags.append({"part_number": number, "etag": tag})
            whole = {**where, "parts": tags, "content_type": CONTENT_TYPE}
            _complete(partial(upload, "PUT", *end, body=whole), reader)
        except BaseException:
            with suppress(StoreError):  # what an unfinished upload leaves is unseen, and paid for
                upload("DELETE", *end, body=where)
            raise
        return parts.physical_address

    def _put_part(
        self,
        address: str,
        reader: _Reader,
        size: int,
        sign: Callable[[], bytes],
        into: ToError,
    ) -> str:
        """Send a part until it is stored, so that what was sent before it need not be sent again.

        Args:
            sign: Asks lakeFS for another address: the first may be too old by now.
        """
        reader.begin_part()
        while True:
            try:
                return self._put(address, reader, size, reader.part, into)
            except Unusable as failed:
                # Not found is the upload; and what has read nothing may go through lakeFS at once.
                if failed.status == NOT_FOUND or not reader.used or not reader.rewind():
                    raise
            with suppress(StoreError, ValidationError):  # older servers know no such call
                address = _Signed.model_validate_json(sign()).presigned_url

    def _put(self, address: str, reader: _Reader, size: int, digest: Digest, into: ToError) -> str:
        tag = self._storage.put(address, reader.as_binary(), size=size)
        if tag.strip('"').lower() != digest.hexdigest():
            # An object that is encrypted by a key of its own, for one, has a tag of another kind.
            self._tags_are_checksums = False
            raise into(NoAnswer("the object store does not show the checksum of what it stored"))
        return tag

    def _link(
        self, branch: Path, key: str, place: str, *, checksum: str, size: int, into: ToError
    ) -> Entry:
        body = {
            "staging": {"physical_address": place},
            "checksum": checksum,
            "size_bytes": size,
            "content_type": CONTENT_TYPE,
        }
        path = (*branch, "staging", "backing")
        answer = self._transport.send("PUT", *path, query={"path": key}, body=body, into=into)
        return _read(Entry, answer, into)


class _Reader:
    """A file with the checksum of what was read of it, and of a part of that."""

    def __init__(self, source: BinaryIO) -> None:
        self.used = False
        self._source = source
        self._own = None if isinstance(source, Digested) else _md5()
        self._part: Digest | None = None

    @property
    def digest(self) -> Digest:
        """Of all that was read."""
        return self._own or cast("Digested", self._source).digest

    @property
    def part(self) -> Digest:
        """Of what was read since the part began; only after `begin_part`."""
        return cast("Digest", self._part)

    def begin_part(self) -> None:
        """Begin a part with what is read next."""
        self._part = _md5()
        if isinstance(self._source, Rewindable):
            self._source.mark()

    def rewind(self) -> bool:
        """Wait, and go back to where the part began; False where it is not to be read again."""
        if not isinstance(self._source, Rewindable) or not self._source.rewind():
            return False
        self._part = _md5()
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Read like the file beneath."""
        self.used = True
        data = self._source.read(size)
        if self._own is not None:
            self._own.update(data)
        if self._part is not None:
            self._part.update(data)
        return data

    def as_binary(self) -> BinaryIO:
        """Return self typed as a file; it is only read from."""
        return cast("BinaryIO", self)


def _md5() -> Digest:
    return hashlib.md5(usedforsecurity=False)


def _complete(send: Callable[[], object], reader: _Reader) -> None:
    """Have the parts put together; again while it is unknown whether they were."""
    reader.begin_part()  # of nothing: its tries are those of this call
    try:
        send()
        return
    except StoreUnavailable as error:
        unclear = error
    while reader.rewind():
        try:
            send()
            return
        except StoreUnavailable:
            continue
        except StoreError:  # the first one had its effect after all, or the upload is gone
            break
    raise unclear


def _hidden(failure: Failure) -> StoreError:
    return store_error(
        failure, doing="reading the configuration", missing=lambda: NotFound("configuration", "")
    )


def _read(kind: type[B], body: bytes, into: ToError) -> B:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise into(NoAnswer(f"{error.error_count()} fields are not as expected")) from None
