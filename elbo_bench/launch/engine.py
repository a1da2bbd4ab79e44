"""What runs trials: a scheduler that exists, behind four methods."""

from typing import Protocol, runtime_checkable

from elbo_bench.launch.task import Task


@runtime_checkable
class Engine(Protocol):
    """Runs tasks side by side, each in a process that is its own while it lasts.

    `conf/engine/` names them. A constructor is given `workers`, how many trials may run side by side, or None.
    """

    @property
    def cores(self) -> int:
        """CPU cores that a trial has for itself."""
        ...

    @property
    def pause(self) -> float:
        """Seconds between two checks of a trial that another launcher is running."""
        ...

    def has_room(self, task: Task) -> bool:
        """Return whether another task may be handed over; what queues by itself always has room."""
        ...

    def start(self, name: str, task: Task) -> None:
        """Hand a task over, and return at once."""
        ...

    def ended(self, seconds: float) -> list[tuple[str, int | None]]:
        """Return what has ended since the last call, waiting so long for it: names and exit codes.

        The code is negative for a process that a signal killed, and None for one that is lost, with its machine or so.
        """
        ...

    def stop(self) -> None:
        """Ask all that runs to save and end, and wait for it."""
        ...
