"""No tracking: the files of the run are all there is."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elbo_bench.tracking.tracker import RunFacts, Session, Tracker


class SilentSession(Session):
    """A run that no one watches."""

    def log(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, folder: Path) -> None:
        """Do nothing."""

    def abandon(self, exit_code: int) -> None:
        """Do nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoTracking(Tracker):
    """Tells no one."""

    def start(self, facts: RunFacts) -> Session:
        """Begin nothing."""
        return SilentSession()
