"""A worker of conductor-python's own TaskHandler, as its documentation shows it.

`python -m benchmarks.plain_worker URL SLOTS TASK=SECONDS...`
"""

import sys
import time

from conductor.client.automator.task_handler import TaskHandler
from conductor.client.configuration.configuration import Configuration
from conductor.client.http.models import Task, TaskResult
from conductor.client.http.models.task_result_status import TaskResultStatus
from conductor.client.worker.worker import Worker

PAUSES = {name: float(seconds) for name, _, seconds in (a.partition("=") for a in sys.argv[3:])}
"""Task name -> seconds its body takes. Read here, because its processes import this anew."""


# Its annotations are read at run time and must not be strings, so there is no __future__ import.
def work(task: Task) -> TaskResult:
    """Wait, and complete."""
    if seconds := PAUSES[task.task_def_name]:
        time.sleep(seconds)
    return TaskResult(
        task_id=task.task_id,
        workflow_instance_id=task.workflow_instance_id,
        status=TaskResultStatus.COMPLETED,
        output_data={"result": {"files": 0}},
    )


def main(url: str, slots: int) -> None:
    """Work until killed."""
    workers = [
        Worker(
            task_definition_name=name,
            execute_function=work,
            thread_count=slots,
        )
        for name in PAUSES
    ]
    handler = TaskHandler(
        workers=workers,
        configuration=Configuration(server_api_url=url),
        scan_for_annotated_workers=False,
    )
    with handler:
        handler.start_processes()
        handler.join_processes()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
