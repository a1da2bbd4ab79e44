"""What a run tells whoever watches it."""

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What is known of a run before it starts.

    Attributes:
        run_id: The run's name.
        folder: The run's folder.
        group: The configuration without its seed, in a few characters: replicates share it.
        job_type: `"train"` or `"evaluate"`.
        cfg: The resolved configuration.
    """

    run_id: str
    folder: Path
    group: str
    job_type: str
    cfg: Mapping[str, Any]


class Session(abc.ABC):
    """One run being watched. No method raises and none waits for a network."""

    @abc.abstractmethod
    def log(self, values: Mapping[str, Any]) -> None:
        """Tell numbers as they are measured, with the optimiser step under `step`."""

    @abc.abstractmethod
    def finish(self, folder: Path) -> None:
        """Tell the record that lies in a folder, and end well."""

    @abc.abstractmethod
    def abandon(self, exit_code: int) -> None:
        """End a run that has no record."""


class Tracker(abc.ABC):
    """A place to which runs are told."""

    @abc.abstractmethod
    def start(self, facts: RunFacts) -> Session:
        """Begin to watch a run."""
