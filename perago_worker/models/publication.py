"""What every publication says about itself in the metadata of its merge commit.

A later attempt reads it to find out whether a commit on the branch is its own, a predecessor's or
somebody else's; without it, no decision about the branch would be sound.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from perago_worker.models.lease import Token

EXPECTED_HEAD = "expected_head"
"""Metadata key that the pre-merge hook compares with the head it is about to replace."""

MAX_RECORDED_RESULT_BYTES = 4096
"""A result up to this size is recorded with its publication, so that a retry may adopt it."""


class Publication(BaseModel):
    """Identity of one publication.

    Attributes:
        uuid: Drawn anew for every publication that is attempted.
        workflow_id: The workflow whose task published.
        task_id: The task that published.
        lineage: The logical task, in its printed form.
        token: Which delivery of the logical task published.
        input_ref: Commit the workspace was downloaded from.
        params_digest: SHA-256 of the canonical JSON of the parameters, hex.
        result: The body's result as JSON, or None when it was not recorded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uuid: str
    workflow_id: str
    task_id: str
    lineage: str
    token: Token
    input_ref: str
    params_digest: str
    result: str | None = None

    def metadata(self, *, expected_head: str) -> dict[str, str]:
        """Render for the merge commit that replaces `expected_head`."""
        values = {
            EXPECTED_HEAD: expected_head,
            "perago-publication": self.uuid,
            "perago-workflow-id": self.workflow_id,
            "perago-task-id": self.task_id,
            "perago-lineage": self.lineage,
            "perago-token": str(self.token),
            "perago-input-ref": self.input_ref,
            "perago-params-digest": self.params_digest,
        }
        if self.result is not None:
            values["perago-result"] = self.result
        return values

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Publication | None:
        """Read a commit's metadata; None when it is not, or not wholly, that of a publication."""
        try:
            return cls(
                uuid=metadata["perago-publication"],
                workflow_id=metadata["perago-workflow-id"],
                task_id=metadata["perago-task-id"],
                lineage=metadata["perago-lineage"],
                token=Token.parse(metadata["perago-token"]),
                input_ref=metadata["perago-input-ref"],
                params_digest=metadata["perago-params-digest"],
                result=metadata.get("perago-result"),
            )
        except (KeyError, ValueError):
            return None
