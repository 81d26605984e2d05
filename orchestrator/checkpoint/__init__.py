"""Checkpoints: one format for every strategy and world size. This store is the authority for resuming a run.

A checkpoint exists when it is *committed*: every rank's file is durable, every byte is under a SHA-256, and the
commit marker was written last. Nothing else counts.
"""

from orchestrator.checkpoint.choose import BEST, NEWEST, chosen, described
from orchestrator.checkpoint.compare import relative_distance, unequal_elements
from orchestrator.checkpoint.find import (
    checkpoint_at,
    committed,
    content_of,
    is_superseded,
    newest_good,
    next_attempt,
)
from orchestrator.checkpoint.format import Checkpoint
from orchestrator.checkpoint.reader import CheckpointReader, open_reader
from orchestrator.checkpoint.retention import Ranking
from orchestrator.checkpoint.writer import Checkpoints

__all__ = [
    "BEST",
    "NEWEST",
    "Checkpoint",
    "CheckpointReader",
    "Checkpoints",
    "Ranking",
    "checkpoint_at",
    "chosen",
    "committed",
    "content_of",
    "described",
    "is_superseded",
    "newest_good",
    "next_attempt",
    "open_reader",
    "relative_distance",
    "unequal_elements",
]
