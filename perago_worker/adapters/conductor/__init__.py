"""`TaskQueue` over Conductor: `queue` composes, `mapping` translates, `transport` sends."""

from perago_worker.adapters.conductor.client import ConductorSettings
from perago_worker.adapters.conductor.queue import ConductorQueue

__all__ = ["ConductorQueue", "ConductorSettings"]
