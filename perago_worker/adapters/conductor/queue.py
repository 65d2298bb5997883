"""`TaskQueue` over Conductor: which requests make up each call of the port.

The rules that shape it were found out against a server: an update never says whether it was taken,
so only `observe` reads; a plain "in progress" update gives the task back, so extensions say that
they extend; task logs are posted as plain text, since the SDK's call for it escapes them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import quote

from perago_worker.adapters.conductor import mapping
from perago_worker.adapters.conductor.answers import NotFoundAnswer
from perago_worker.adapters.conductor.client import ConductorSettings
from perago_worker.adapters.conductor.mapping import Record, UnreadableTaskError
from perago_worker.adapters.conductor.sdk import MetadataResourceApi, TaskResourceApi
from perago_worker.adapters.conductor.transport import LOG_ROUTE, TASK_ROUTE, Request, Transport
from perago_worker.errors import QueueError, QueueUnavailable
from perago_worker.events import Listener
from perago_worker.models import Lease, Lost, Observation, Outcome
from perago_worker.ports import MAX_POLL_WAIT_S, Clock, TaskEnd

POLL_GRACE_S = 15.0
"""How much longer than the server holds a poll the worker waits for its answer.

An answer that comes after the worker stopped waiting loses the tasks in it, and a server that has
just started takes six seconds for the first.
"""

MAX_INPUT_BYTES = 64 * 1024 * 1024
"""Largest input that is read from where Conductor keeps large payloads."""

_log = logging.getLogger(__name__)


class ConductorQueue:
    """One worker's access to one Conductor; `ports.TaskQueue` says what every method promises."""

    def __init__(self, transport: Transport, *, clock: Clock, worker_id: str) -> None:
        self._transport = transport
        self._clock = clock
        self._worker_id = worker_id
        self._tasks = TaskResourceApi(transport)
        self._metadata = MetadataResourceApi(transport)

    @classmethod
    def open(
        cls,
        settings: ConductorSettings,
        *,
        clock: Clock,
        worker_id: str,
        listener: Listener | None = None,
    ) -> Self:
        """Return a queue that connects on first use; the worker id is unique per process start.

        `listener` is told of every request.

        Raises:
            ConfigError: The settings cannot be used.
        """
        return cls(
            Transport(settings, clock=clock, listener=listener), clock=clock, worker_id=worker_id
        )

    def ping(self) -> None:
        """Look up a task definition that need not exist: the answer proves address and keys."""
        self.taskdef("perago-worker.ping")

    def poll(
        self, task_type: str, *, count: int, wait_s: float, domain: str | None = None
    ) -> list[Lease]:
        """Take tasks. One that cannot be read is reported as failed and left out."""
        wait_s = min(max(wait_s, 0.0), MAX_POLL_WAIT_S)
        optional = {} if domain is None else {"domain": domain}
        granted_at = self._clock.now()
        records = self._tasks.batch_poll(
            task_type,
            workerid=self._worker_id,
            count=count,
            timeout=round(wait_s * 1000),
            _request_timeout=wait_s + POLL_GRACE_S,
            **optional,
        )
        if not isinstance(records, list | None):
            raise QueueUnavailable(f"poll of {task_type}: the answer is not a list")
        leases = (
            self._lease(record, task_type=task_type, domain=domain, granted_at=granted_at)
            for record in records or ()
        )
        return [lease for lease in leases if lease is not None]

    def observe(self, lease: Lease) -> Observation:
        """Compare the task's record with the lease."""
        record = self._record(lease)
        if record is None:
            return Lost(why="gone", detail="the server knows no such task")
        return mapping.read_observation(record, lease)

    def extend(self, lease: Lease) -> None:
        """Restart the response timeout."""
        self._update(lease, mapping.extension(lease))

    def complete(self, lease: Lease, outcome: Outcome, *, timeout_s: float | None = None) -> None:
        """Report an outcome."""
        time_ms = round(self._clock.time() * 1000)
        self._update(lease, mapping.report(lease, outcome, time_ms=time_ms), timeout_s=timeout_s)

    def give_back(self, lease: Lease, *, after_s: float = 0.0) -> None:
        """Put the task back, unless it is seen to be somebody else's.

        It is looked at first because Conductor lets anybody give back anybody's task.
        """
        path = f"/tasks/{quote(lease.task_id, safe='')}"
        with self._unless_unknown(lease):
            answer = self._transport.send(Request("GET", path, route=TASK_ROUTE))
            record = _object(answer.json(), answer.call)
            if isinstance(mapping.read_observation(record, lease), Lost):
                return
            delay = mapping.give_back_delay(
                record,
                lease,
                after_s=after_s,
                server_time=answer.server_time() or self._clock.time(),
            )
            self._update(lease, mapping.give_back(lease, after_s=delay))

    def append_log(self, lease: Lease, lines: Sequence[str]) -> None:
        """Add lines as one entry."""
        body = mapping.log_body(lines)
        if not body:
            return
        path = f"/tasks/{quote(lease.task_id, safe='')}/log"
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        with self._unless_unknown(lease):
            self._transport.send(
                Request("POST", path, content=body, headers=headers, route=LOG_ROUTE)
            ).text()

    def ended(self, task_id: str) -> TaskEnd:
        """Read how a task has ended from its record."""
        try:
            record = self._tasks.get_task(task_id)
        except NotFoundAnswer as answer:
            if task_id in answer.message:
                return "gone"
            raise
        return mapping.read_end(_object(record, f"task {task_id}"))

    def depth(self, task_type: str, *, domain: str | None = None) -> int:
        """Count waiting tasks; the SDK has no call for it that knows domains."""
        params = [("taskType", task_type)] + ([] if domain is None else [("domain", domain)])
        answer = self._transport.send(Request("GET", "/tasks/queue/size", params))
        size = answer.json()
        if not isinstance(size, int):
            raise QueueUnavailable(f"{answer.call}: the answer is not a number")
        return size

    def taskdef(self, name: str) -> dict[str, Any] | None:
        """Return a registered definition."""
        try:
            found = self._metadata.get_task_def(name)
        except NotFoundAnswer as answer:
            if name in answer.message:
                return None
            raise
        return dict(_object(found, f"task definition {name}"))

    def register_taskdef(self, taskdef: Mapping[str, Any]) -> None:
        """Register a definition: Conductor replaces whole ones, so this merges first."""
        registered = self.taskdef(taskdef["name"])
        if registered is None:
            self._metadata.register_task_def([dict(taskdef)])
            return
        merged = {**registered, **taskdef}
        if merged != registered:
            self._metadata.update_task_def(merged)

    def close(self) -> None:
        """Release connections."""
        self._transport.close()

    # ----------------------------------------------------------------------------------------------

    def _record(self, lease: Lease) -> Record | None:
        with self._unless_unknown(lease):
            return _object(self._tasks.get_task(lease.task_id), f"task {lease.task_id}")
        return None

    def _update(self, lease: Lease, body: bytes, *, timeout_s: float | None = None) -> None:
        with self._unless_unknown(lease):
            answer = self._tasks.update_task(body, _request_timeout=timeout_s)
            # Conductor answers with the task's id; a page of a proxy's would look like success.
            if answer.strip().strip('"') != lease.task_id:
                raise QueueUnavailable(f"update of task {lease.task_id}: the answer is not its id")

    @contextmanager
    def _unless_unknown(self, lease: Lease) -> Iterator[None]:
        """Leave the block when Conductor says that it knows no such task or workflow."""
        try:
            yield
        except NotFoundAnswer as answer:
            if lease.task_id not in answer.message and lease.workflow_id not in answer.message:
                raise

    def _lease(
        self, record: Any, *, task_type: str, domain: str | None, granted_at: float
    ) -> Lease | None:
        try:
            return mapping.read_lease(
                self._with_input(_object(record, "polled task")),
                task_type=task_type,
                domain=domain,
                worker_id=self._worker_id,
                granted_at=granted_at,
            )
        except (UnreadableTaskError, QueueError) as problem:
            self._fail(record, f"input_unreadable: {problem}")
            return None

    def _with_input(self, record: Record) -> Record:
        """The record with its input, which Conductor keeps elsewhere when it is large."""
        path = record.get("externalInputPayloadStoragePath")
        if not path:
            return record
        place = self._tasks.get_external_storage_location1(path, "READ", "TASK_INPUT")
        url = place.get("uri") if isinstance(place, dict) else None
        if not url:
            raise UnreadableTaskError(
                "the input is larger than Conductor keeps itself, and its external payload storage "
                "gives workers no address to read from"
            )
        return {**record, "inputData": self._transport.fetch(url, limit=MAX_INPUT_BYTES)}

    def _fail(self, record: Any, reason: str) -> None:
        """Report a polled task that no attempt can be made of, so that its workflow shows why."""
        fields = record if isinstance(record, dict) else {}
        task_id, workflow_id = fields.get("taskId"), fields.get("workflowInstanceId")
        _log.error("polled task %s cannot be read: %s", task_id, reason)
        if not isinstance(task_id, str) or not isinstance(workflow_id, str):
            return
        try:
            self._tasks.update_task(mapping.failure(task_id, workflow_id, self._worker_id, reason))
        except QueueError as problem:
            # Its response timeout takes it back; the other tasks of the batch must not suffer.
            _log.warning("failure of task %s was not reported: %s", task_id, problem)


def _object(value: Any, what: str) -> Record:
    if not isinstance(value, dict):
        raise QueueUnavailable(f"{what}: the answer is not a JSON object")
    return value
