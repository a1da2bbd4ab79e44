"""No tracking: a run writes nothing but its own files."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elbo_bench.tracking.tracker import RunFacts, Session, Tracker


class SilentSession(Session):
    """A session that does nothing."""

    def log(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, folder: Path) -> None:
        """Do nothing."""

    def abandon(self, exit_code: int) -> None:
        """Do nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoTracking(Tracker):
    """A tracker that does nothing."""

    def start(self, facts: RunFacts) -> Session:
        """Return a session that does nothing."""
        return SilentSession()
