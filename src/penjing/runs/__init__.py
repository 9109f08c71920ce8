"""The folder of a run: an append-only journal, candidates that are whole or absent, a pointer to the best so far."""

from penjing.runs.folder import Best, RunFolder, read_best
from penjing.runs.identity import candidate_hash
from penjing.runs.journal import Event, Journal, read_journal

__all__ = ["Best", "Event", "Journal", "RunFolder", "candidate_hash", "read_best", "read_journal"]
