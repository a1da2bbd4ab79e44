"""A trial of a sweep: one configuration, the folder that its record lies in, and how far it is."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

State = Literal["waiting", "running", "done", "recorded", "failed", "stopped"]


@dataclasses.dataclass
class Trial:
    """One run of a sweep.

    Attributes:
        words: Its `key=value` words.
        cfg: The configuration that they make, checked.
        folder: The run's folder; the trial is done when a record stands in it.
        log: File that takes what the run prints.
        state: How far it is.
        seconds: How long it ran.
        reason: Why it failed.
    """

    words: list[str]
    cfg: dict[str, Any]
    folder: Path
    log: Path
    state: State = "waiting"
    seconds: float = 0.0
    reason: str = ""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def is_recorded(self) -> bool:
        """Whether its record stands: an exit code of 0 proves nothing."""
        return (self.folder / "result.json").is_file()
