"""A trial of a sweep: one configuration, the folder that its record lies in, and how far it is."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

from elbo_bench.errors import UsageError
from elbo_bench.results.further import missing_evaluations
from elbo_bench.results.record import RESULT

State = Literal["waiting", "queued", "running", "elsewhere", "done", "recorded", "failed", "stopped"]


@dataclasses.dataclass
class Trial:
    """One run of a sweep.

    Attributes:
        words: Its `key=value` words.
        cfg: The configuration that they make, checked.
        folder: The run's folder; the trial is done when a record stands in it.
        log: File that takes what the run prints.
        processes: How many it starts on one machine.
        state: How far it is; `elsewhere` is what another launcher computes at the moment.
        seconds: How long it ran, all attempts together.
        failures: How often it failed, or was killed with nothing new saved.
        reason: Why it failed the last time.
    """

    words: list[str]
    cfg: dict[str, Any]
    folder: Path
    log: Path
    processes: int = 1
    state: State = "waiting"
    seconds: float = 0.0
    failures: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def is_recorded(self) -> bool:
        """Whether its record and those of its further evaluations stand: an exit code of 0 proves nothing."""
        if not (self.folder / RESULT).is_file():
            return False
        try:
            return not missing_evaluations(self.folder, self.cfg.get("then_evaluate", []))
        except UsageError:  # damaged: the leaderboard names it
            return True

    def saved(self) -> int:
        """Return when the run last saved something to go on from, in nanoseconds; 0 for never."""
        newest = 0
        for part in (self.folder / "checkpoints", self.folder / ".blocks"):
            for folder, _, names in os.walk(part):
                for name in names:
                    try:
                        newest = max(newest, os.stat(os.path.join(folder, name)).st_mtime_ns)  # noqa: PTH116, PTH118
                    except FileNotFoundError:  # replaced meanwhile
                        continue
        return newest

    def last_word(self) -> str:
        """Return the last line that the program itself wrote into the log, or the last one at all."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        lines = [line for line in text.splitlines() if line.strip()]
        words = [line.removeprefix("elbo-bench: ") for line in lines if line.startswith("elbo-bench: ")]
        own = [line for line in words if not line.startswith("W&B")]  # its mirror's word is no reason
        return (own or lines or [""])[-1]
