"""A task of a shop, as an example of what goes into an image."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from tabulate import tabulate

from perago_worker import WorkspaceSpec, require_glob, task


class Params(BaseModel):
    """What to count."""

    shortest: int = 1


class Count(BaseModel):
    """What was counted."""

    files: int
    words: int


@task(
    name="shop.count_words",
    owner_email="data@example.com",
    workspace=WorkspaceSpec(prefix="texts", pre=[require_glob("*.txt")]),
)
def count_words(workspace: Path, params: Params) -> Count:
    """Count the words of every text, and write a table beside the texts."""
    texts = sorted(workspace.glob("*.txt"))
    counts = [
        (text.name, sum(len(word) >= params.shortest for word in text.read_text().split()))
        for text in texts
    ]
    (workspace / "words.table").write_text(tabulate(counts, headers=["text", "words"]) + "\n")
    return Count(files=len(counts), words=sum(count for _, count in counts))
