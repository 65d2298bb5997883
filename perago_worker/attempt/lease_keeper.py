"""Keeps one lease alive, knows whether it may be relied on, and reports when it ends.

One lock per attempt is held across every call that writes to the task's record: extension,
completion, give-back. On Conductor an extension that overlaps the completion undoes it, and the
task then waits for its response timeout with its output lost. This is the one lock in the worker
that is held across a request; only the threads of the same attempt ever wait for it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from perago_worker.attempt.backoff import Backoff
from perago_worker.attempt.codes import Code
from perago_worker.attempt.stop import StopCause, StopToken
from perago_worker.errors import (
    AttemptAbandoned,
    QueueError,
    QueueRefused,
    QueueUnavailable,
    RetryableAttemptError,
)
from perago_worker.events import CallRepeated, GivenBack, HeartbeatSent, Listener
from perago_worker.models import Held, Lease, Lost, Outcome
from perago_worker.ports import Clock, TaskQueue

BEATS_PER_LEASE = 3
"""A lease is extended at least this often, so that two lost heartbeats in a row are survived."""

MARGIN_SHARE = 0.1
"""Part of the response timeout by which the local deadline comes earlier than the server's."""

SETTLE_S = 1.0
"""How long after an unclear completion the record is read back: by then a heartbeat that was still
on its way has landed. Source: Conductor's extension takes milliseconds once it is received."""

READ_BACKS = 3
"""How often an undone completion is sent again."""

REPORT_PATIENCE_S = 600.0
"""How long a report is tried for while the queue is away. Late reports are harmless."""

GIVE_BACK_TRIES = 4

BeatResult = Literal["held", "lost", "error", "busy", "over"]


@dataclass(frozen=True)
class KeeperTimes:
    """When a keeper beats and how long it believes in its lease; all in seconds.

    Attributes:
        interval: From one heartbeat to the next.
        lease: From the sending of a good heartbeat to the moment the lease must not be relied on.
    """

    interval: float
    lease: float

    @classmethod
    def of(cls, lease: Lease, *, heartbeat_interval_s: float) -> KeeperTimes:
        """Derive from a lease's response timeout and the interval that was asked for."""
        timeout = lease.response_timeout_s
        return cls(
            interval=min(heartbeat_interval_s, timeout / BEATS_PER_LEASE),
            lease=timeout * (1 - MARGIN_SHARE),
        )


class LeaseKeeper:
    """The lease of one running attempt.

    Thread-safe. `beat` belongs to the heartbeat service; everything else to the
    thread that carries the attempt out or reports it.
    """

    def __init__(
        self,
        lease: Lease,
        *,
        queue: TaskQueue,
        clock: Clock,
        heartbeat_interval_s: float,
        stop: StopToken,
        shut_down: threading.Event,
        listener: Listener,
    ) -> None:
        """Start with a fresh lease.

        Args:
            stop: Tripped when the lease is found lost.
            shut_down: Set when the worker must end at once; cuts every wait short.
        """
        self._queue = queue
        self._clock = clock
        self._listener = listener
        self._shut_down = shut_down
        self._lease = lease
        self._writing = threading.Lock()
        self._claim = threading.Lock()
        self._over = False
        self._lost = False
        self._uncertain_since: float | None = None
        self._lost_code = Code.SUPERSEDED
        self.times = KeeperTimes.of(lease, heartbeat_interval_s=heartbeat_interval_s)
        self.stop = stop
        self._confirmed_at = lease.granted_at

    @property
    def lease(self) -> Lease:
        """The newest delivery this attempt stands for."""
        return self._lease

    @property
    def remaining_s(self) -> float:
        """Seconds for which the lease may be relied on; not positive once it may not."""
        return self._confirmed_at + self.times.lease - self._clock.now()

    @property
    def next_beat_at(self) -> float:
        """Clock reading at which the next heartbeat is due."""
        return self._confirmed_at + self.times.interval

    def adopt(self, newer: Lease) -> bool:
        """Stand for a newer delivery of the same task: it was delivered again while it ran here.

        Returns:
            False when the attempt cannot stand for it, and ends: its own lease was found lost
            before, or the task is run again on purpose. The delivery is then still to be handled.
        """
        # Not the lock for writing: the poller must not wait for a report that takes minutes.
        with self._claim:
            if not self._lost and _same_work(self._lease, newer):
                if newer.token > self._lease.token:
                    self._lease = newer
                    self._confirmed_at = max(self._confirmed_at, newer.granted_at)
                return True
        self.stop.trip(StopCause.SUPERSEDED, "the task was delivered here anew")
        return False

    def beat(self, *, due: float) -> BeatResult:
        """Read the record, extend the lease if it is held, trip the stop token if it is lost.

        Returns:
            `busy` when another call of this attempt is writing: it does what a beat would do.
        """
        if not self._writing.acquire(blocking=False):
            return "busy"
        try:
            if self._over:
                return "over"
            delay = max(0.0, self._clock.now() - due)
            result, detail = self._observe_and_extend()
        finally:
            self._writing.release()
        self._listener.on_event(HeartbeatSent(self._lease, result, delay, detail))
        return result

    def confirm(self) -> None:
        """Make sure at this moment that the lease is held, and extend it, as the next beat would.

        Raises:
            AttemptAbandoned: The lease is lost.
            RetryableAttemptError: Nothing was learnt, so nothing may be published.
        """
        with self._writing:
            result, detail = self._observe_and_extend()
        self._listener.on_event(HeartbeatSent(self._lease, result, None, detail))
        if result == "lost":
            # Not `stop.check()`: the first order to stop may have been a milder one.
            raise AttemptAbandoned(self._lost_code, detail)
        if result == "error":
            raise RetryableAttemptError(
                Code.LEASE_UNCONFIRMED,
                f"the lease could not be confirmed before publishing: {detail}",
            )

    def _observe_and_extend(self) -> tuple[Literal["held", "lost", "error"], str]:
        lease, sent_at = self._lease, self._clock.now()
        try:
            observation = self._queue.observe(lease)
        except (QueueUnavailable, QueueRefused) as error:
            return "error", str(error)
        if isinstance(observation, Lost):
            if not self._lose(lease, observation):
                return self._observe_and_extend()
            return "lost", f"{observation.why}: {observation.detail}"
        try:
            self._queue.extend(lease)
        except (QueueUnavailable, QueueRefused) as error:
            # The extension may still land, even after the attempt has reported: see `complete`.
            self._uncertain_since = self._clock.now()
            return "error", str(error)
        if self._uncertain_since is not None and sent_at - self._uncertain_since >= SETTLE_S:
            self._uncertain_since = None  # it has landed by now, or never will
        self._confirmed_at = sent_at
        return "held", ""

    def _lose(self, lease: Lease, observation: Lost) -> bool:
        """Take note that `lease` is lost, unless a newer one has been adopted meanwhile."""
        with self._claim:
            self._lost = self._lease is lease
        if self._lost:
            self._over = True
            cause = _stop_cause(observation)
            self._lost_code = Code(cause)
            self.stop.trip(cause, observation.detail)
        return self._lost

    def require(self) -> None:
        """Make sure that the lease is not known to be lost; nothing learnt is no reason to stop.

        For before a report: queues take one from anybody who knows the task's id, so that the
        report of a superseded attempt could stand for what its successor has published.

        Raises:
            AttemptAbandoned: The lease is lost.
        """
        with self._writing:
            lease = self._lease
            try:
                observation = self._queue.observe(lease)
            except QueueError:
                return
            if isinstance(observation, Lost) and self._lose(lease, observation):
                raise AttemptAbandoned(self._lost_code, observation.detail)

    def complete(self, outcome: Outcome, *, request_timeout_s: float) -> bool:
        """Report the outcome; no heartbeat is sent from here on.

        Tries again while the queue is away, for `REPORT_PATIENCE_S` or until the worker is shut
        down. After an unclear answer or an unclear heartbeat, reads the record back and reports
        again if the report was undone.

        Returns:
            Whether the queue has answered. A report for a lost lease is ignored by the queue.

        Raises:
            QueueRefused: The queue will never take this report; another may be tried.
        """
        with self._writing:
            if self._over:
                return False
            self._over = True
            try:
                answered = self._send_report(outcome, request_timeout_s)
            except QueueRefused:
                self._over = False  # something else may be reported instead
                raise
            if answered and self._uncertain_since is not None:
                self._read_back(outcome, request_timeout_s)
        return answered

    def _send_report(self, outcome: Outcome, request_timeout_s: float) -> bool:
        give_up_at = self._clock.now() + REPORT_PATIENCE_S
        for wait_s in Backoff(first_s=0.5, cap_s=30.0):
            try:
                self._queue.complete(self._lease, outcome, timeout_s=request_timeout_s)
            except QueueUnavailable:
                self._uncertain_since = self._clock.now()
            else:
                return True
            if self._clock.wait(self._shut_down, wait_s) or self._clock.now() > give_up_at:
                return False
            self._listener.on_event(CallRepeated("queue"))
        return False

    def _read_back(self, outcome: Outcome, request_timeout_s: float) -> None:
        for _ in range(READ_BACKS):
            if self._clock.wait(self._shut_down, SETTLE_S):
                return
            try:
                if not isinstance(self._queue.observe(self._lease), Held):
                    return
                self._queue.complete(self._lease, outcome, timeout_s=request_timeout_s)
            except QueueError:
                continue  # the report was answered once: a refusal now is no reason for another

    def give_back(self, *, after_s: float, why: str) -> bool:
        """Put the task back in the queue; return whether the queue has answered."""
        error = ""
        with self._writing:
            if self._over:
                return False
            self._over = True
            for tries, wait_s in enumerate(Backoff(first_s=0.25, cap_s=2.0), start=1):
                try:
                    if tries == 1 or isinstance(self._queue.observe(self._lease), Held):
                        # Repeated only while it is ours: it would take it from whoever has it now.
                        self._queue.give_back(self._lease, after_s=after_s)
                    error = ""
                    break
                except QueueRefused as refused:
                    error = str(refused)
                    break
                except QueueUnavailable as unavailable:
                    error = str(unavailable)
                if tries >= GIVE_BACK_TRIES:
                    break
                self._clock.wait(self._shut_down, wait_s)
        self._listener.on_event(GivenBack(self._lease, why, error))
        return not error

    def abandon(self) -> None:
        """Send nothing more for this lease."""
        with self._writing:
            self._over = True


def _same_work(one: Lease, other: Lease) -> bool:
    """Whether two deliveries ask for the same: a rerun starts anew, maybe with another input."""
    return (one.start_time_ms, one.retry_count, one.input) == (
        other.start_time_ms,
        other.retry_count,
        other.input,
    )


def _stop_cause(lost: Lost) -> StopCause:
    return StopCause.CANCELLED if lost.why == "cancelled" else StopCause.SUPERSEDED
