"""Starts the worker's services in order, notices a dead one, and stops them in reverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from perago_worker.attempt.backoff import Backoff
from perago_worker.attempt.directories import AttemptDirectories
from perago_worker.attempt.stop import StopCause
from perago_worker.events import Listener, ServiceFailed, StateChanged
from perago_worker.ports import Clock, TaskQueue
from perago_worker.runtime.heartbeats import Heartbeats
from perago_worker.runtime.idleness import Idleness
from perago_worker.runtime.poller import Poller
from perago_worker.runtime.service import Service, ThreadService
from perago_worker.runtime.shutdown import Shutdown
from perago_worker.runtime.slots import Slot, SlotPool
from perago_worker.runtime.watchdog import STALL_S, Watchdog

State = Literal["starting", "running", "draining", "stopped"]

LOOK_INTERVAL_S = 0.2
FRESH_POLL_S = 60.0
"""A worker whose last good poll is older is not ready."""

MAX_FAILURES = 5
"""A service that ends by itself more often than this ends the worker."""

FORGIVEN_S = 600.0
"""A service that has worked for this long has its failures forgotten: a few in months are no reason
to end."""

POLL_END_S = 30.0
"""How long a poll in flight may take to end when the worker stops."""

REPORT_END_S = 30.0
"""How long stopped attempts may take to be given back."""

EXIT_DRAINED = 0
EXIT_FAILED = 1


Check = Callable[[], list[str]]
"""Returns reasons why something is not well; none when it is."""


class Endpoint(Protocol):
    """The HTTP endpoint, first to start and last to stop."""

    def start(self) -> None:
        """Begin to serve."""

    def stop(self) -> None:
        """End."""


@dataclass
class _Restarts:
    """How often a service has failed lately, when it is to be started again, and when it was."""

    failures: int = 0
    due: float | None = None
    started_at: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=1.0, cap_s=30.0))


class Supervisor:
    """The worker as a whole."""

    def __init__(
        self,
        *,
        queue: TaskQueue,
        pollers: Sequence[Poller],
        heartbeats: Heartbeats,
        directories: AttemptDirectories,
        make_endpoint: Callable[[Check, Check], Endpoint],
        shutdown: Shutdown,
        clock: Clock,
        listener: Listener,
        drain_timeout_s: float,
        until_idle: bool,
        janitor: Service | None = None,
        observers: Sequence[Service] = (),
    ) -> None:
        self.pollers = pollers
        self._heartbeats = heartbeats
        self._watchdog = Watchdog(lambda: self.services, clock=clock, listener=listener)
        self._janitor = [*([janitor] if janitor else []), *observers, self._watchdog]
        self._directories = directories
        self._endpoint = make_endpoint(self.liveness, self.readiness)
        self._shutdown = shutdown
        self._clock = clock
        self._listener = listener
        self._drain_timeout_s = drain_timeout_s
        self._idleness = Idleness(queue, pollers, clock) if until_idle else None
        self._restarts: dict[str, _Restarts] = {}
        self.state: State = "starting"
        self._looked_at = clock.now()

    @property
    def _pools(self) -> list[SlotPool]:
        return [poller.pool for poller in self.pollers]

    @property
    def services(self) -> list[Service]:
        """All long-lived parts."""
        return [self._heartbeats, *self._janitor, *self._helpers, *self._slots, *self.pollers]

    @property
    def _slots(self) -> list[Slot]:
        return [slot for pool in self._pools for slot in pool.slots]

    @property
    def _helpers(self) -> list[ThreadService]:
        return [helper for pool in self._pools for helper in pool.helpers]

    def run(self) -> int:
        """Work until asked to end; return the exit code. Called in the main thread."""
        with self._shutdown.on_signals():
            self._start()
            healthy = self._watch()
            self._drain()
            self._stop()
        return self._exit_code(healthy=healthy)

    def _exit_code(self, *, healthy: bool) -> int:
        number = self._shutdown.signal_number
        if self._shutdown.now.is_set() and number is not None:
            return 128 + number
        return EXIT_DRAINED if healthy else EXIT_FAILED

    def _start(self) -> None:
        self._enter("starting")
        self._directories.open()
        self._endpoint.start()
        for service in self.services:
            if service not in self.pollers:
                service.start()
        self._enter("running")
        for poller in self.pollers:
            poller.start()

    def _enter(self, state: State, detail: str = "") -> None:
        self.state = state
        self._listener.on_event(StateChanged(state, detail))

    def _watch(self) -> bool:
        """Wait for a reason to end; return whether it is a good one."""
        while not self._clock.wait(self._shutdown.drain, LOOK_INTERVAL_S):
            if not self._restart_failed():
                return False
            if self._idleness is not None and self._idleness.reached():
                return True
        return True

    def _restart_failed(self) -> bool:
        """Start services that ended by themselves; return False when one does so too often."""
        self._looked_at = self._clock.now()
        for service in self.services:
            if service.failure is None:
                continue
            restarts = self._restarts.setdefault(service.name, _Restarts())
            if restarts.due is None:
                if self._clock.now() - restarts.started_at >= FORGIVEN_S:
                    restarts = self._restarts[service.name] = _Restarts()
                restarts.failures += 1
                hopeless = restarts.failures > MAX_FAILURES
                wait_s = None if hopeless else restarts.backoff.next_wait()
                self._listener.on_event(ServiceFailed(service.name, service.failure, wait_s))
                if wait_s is None:
                    return False
                restarts.due = self._clock.now() + wait_s
            elif self._clock.now() >= restarts.due:
                restarts.due = None
                restarts.started_at = self._clock.now()
                service.start()
        return True

    def _drain(self) -> None:
        """Take no new work, and let what runs finish, with its heartbeats, for so long."""
        running = sum(pool.busy for pool in self._pools)
        self._enter("draining", f"{running} slots are at work")
        for poller in self.pollers:
            poller.stop()
        deadline = self._clock.now() + self._drain_timeout_s
        self._await(lambda: all(p.join(0) for p in self.pollers), POLL_END_S)
        self._await(self._nothing_runs, deadline - self._clock.now())
        cause = StopCause.SHUT_DOWN if self._shutdown.now.is_set() else StopCause.DRAINED
        for pool in self._pools:
            pool.stop_attempts(cause, "the worker stopped before the attempt was done")

    def _nothing_runs(self) -> bool:
        return not any(pool.busy for pool in self._pools)

    def _await(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait for a condition, no longer than told and not beyond the second signal."""
        give_up_at = self._clock.now() + timeout_s
        while not condition() and self._clock.now() < give_up_at:
            self._restart_failed()  # heartbeats above all: what drains needs its lease
            if self._clock.wait(self._shutdown.now, LOOK_INTERVAL_S / 4):
                return

    def _stop(self) -> None:
        """Stop everything, telemetry last."""
        give_up_at = self._clock.now() + REPORT_END_S
        for slot in self._slots:
            slot.stop()
        for slot in self._slots:
            slot.join(max(0.0, give_up_at - self._clock.now()))
        for service in (*self._helpers, *self._janitor, self._heartbeats):
            service.stop()
            service.join(LOOK_INTERVAL_S)
        self._directories.close()
        self._enter("stopped")
        self._endpoint.stop()

    def liveness(self) -> list[str]:
        """Return why the process should be restarted; a dependency being down is no reason."""
        silent = {service.name: service.silent_for_s() for service in self.services}
        silent["main loop"] = self.lag_s()
        return [
            f"{name} has made no progress for {seconds:.0f} s"
            for name, seconds in silent.items()
            if seconds > STALL_S
        ]

    def lag_s(self) -> float:
        """Return how late the main loop is with its next look."""
        if self.state in {"starting", "stopped"}:
            return 0.0
        return max(0.0, self._clock.now() - self._looked_at - LOOK_INTERVAL_S)

    def readiness(self) -> list[str]:
        """Return why the worker is not taking work."""
        if self.state != "running":
            return [f"the worker is {self.state}"]
        return [
            f"{poller.task_type}: {reason}"
            for poller in self.pollers
            if (reason := self._why_not_polling(poller))
        ]

    def _why_not_polling(self, poller: Poller) -> str:
        if poller.last_error:
            return f"cannot poll: {poller.last_error}"
        if poller.polled_at is None:
            return "has not polled yet"
        age = self._clock.now() - poller.polled_at
        if age <= FRESH_POLL_S or poller.pool.busy == len(poller.pool.slots):
            return ""
        return f"last polled {age:.0f} s ago"
