"""Training tasks: the adapter for a user's module and data, and the embedded tasks."""

from gcdist.tasks.partition import partition_by
from gcdist.tasks.registry import TaskError, load_task
from gcdist.tasks.task import Task

__all__ = ["Task", "TaskError", "load_task", "partition_by"]
