"""All of the book's datasets and tasks by name: what it makes, and what it reads from the hub."""

from lorabook.data import datasets, hub, tasks

DATASETS = datasets.BUILDERS | hub.CONVERSATIONS
TASKS = tasks.TASKS | hub.PROBLEMS
