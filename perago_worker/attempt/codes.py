"""The stable words that outcomes are known by, in reasons, logs and metrics.

A closed set: metrics count by them and alerts name them, so a word once released keeps its meaning.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Why an attempt ended as it did."""

    # completed
    PUBLISHED = "published"
    REPLACED = "replaced"
    ADOPTED = "adopted"
    NO_OP = "no_op"
    READ_ONLY = "read_only"
    NO_WORKSPACE = "no_workspace"
    # failed terminally: a retry of the same input would end the same way
    PARAMS_INVALID = "params_invalid"
    WORKSPACE_INVALID = "workspace_invalid"
    NOT_FOUND = "not_found"
    STORE_REFUSED = "store_refused"
    KEY_REFUSED = "key_refused"
    WORKSPACE_TOO_LARGE = "workspace_too_large"
    PRE_GUARD = "pre_guard"
    TASK_TERMINAL = "task_terminal"
    FENCE_MISSING = "fence_missing"
    HEAD_MOVED = "head_moved"
    LOST_RACE = "lost_race"
    OUTPUT_TOO_LARGE = "output_too_large"
    REPORT_REFUSED = "report_refused"
    # failed: a retry may do better
    TASK_FAILED = "task_failed"
    TASK_EXCEPTION = "task_exception"
    RESULT_INVALID = "result_invalid"
    POST_GUARD = "post_guard"
    FILE_REFUSED = "file_refused"
    WORKSPACE_CHANGED = "workspace_changed"
    CHILD_DIED = "child_died"
    BODY_TIMEOUT = "body_timeout"
    TRANSFER_FAILED = "transfer_failed"
    DISK_FULL = "disk_full"
    STAGE_FAILED = "stage_failed"
    PUBLISH_FAILED = "publish_failed"
    LEASE_UNCONFIRMED = "lease_unconfirmed"
    WORKER_ERROR = "worker_error"
    # not reported
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    # given back
    DRAINED = "drained"
    SHUT_DOWN = "shut_down"
