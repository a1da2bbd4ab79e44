"""What becomes of a trial that fails, is killed or is somebody else's: by an engine that does as it is told."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from elbo_bench.launch.engine import Engine
from elbo_bench.launch.local import LocalEngine
from elbo_bench.launch.run_trials import run_trials
from elbo_bench.launch.slots import Slot, slots
from elbo_bench.launch.task import Task
from elbo_bench.launch.trial import Trial
from elbo_bench.results.claim import claimed, is_claimed

Script = Callable[[Trial, int], int | None]
"""What an attempt at a trial comes to, by its number."""


def saves(trial: Trial) -> None:
    place = trial.folder / "checkpoints" / "last.ckpt"
    place.parent.mkdir(parents=True, exist_ok=True)
    stamp = place.stat().st_mtime_ns + 10**9 if place.exists() else 10**9
    place.touch()
    os.utime(place, ns=(stamp, stamp))


def records(trial: Trial) -> None:
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / "result.json").touch()


class Scripted:
    """An engine of one place, where each attempt ends at once as a script has it."""

    cores, pause = 1, 0.01

    def __init__(self, trials: list[Trial], script: Script) -> None:
        self._trials, self._script = {trial.name: trial for trial in trials}, script
        self._now: list[str] = []
        self.attempts: list[str] = []

    def has_room(self, task: Task) -> bool:
        return not self._now

    def start(self, name: str, task: Task) -> None:
        self._now.append(name)
        self.attempts.append(name)

    def ended(self, seconds: float) -> list[tuple[str, int | None]]:
        names, self._now = self._now, []
        return [(name, self._script(self._trials[name], self.attempts.count(name))) for name in names]

    def stop(self) -> None:
        self._now = []


def make(*names: str) -> list[Trial]:
    return [Trial([], {}, Path("runs") / name, Path("runs/.logs") / f"{name}.txt") for name in names]


def never(words: list[str], conf: list[str]) -> int:
    raise AssertionError("the scripted engine runs nothing")


def run(trials: list[Trial], script: Script, retries: int = 2) -> Scripted:
    engine = Scripted(trials, script)
    assert isinstance(engine, Engine)
    run_trials(trials, engine, lambda trial: Task(never, [], [], trial.log, {}), retries=retries, changed=lambda: None)
    return engine


def test_an_exit_code_of_0_without_a_record_is_a_failure() -> None:
    trials = make("a")
    engine = run(trials, lambda trial, attempt: 0)
    assert (trials[0].state, trials[0].failures, len(engine.attempts)) == ("failed", 3, 3)
    assert trials[0].reason == "it printed nothing (exit code 0)"


def test_a_record_is_what_counts_and_not_the_exit_code() -> None:
    trials = make("a")
    run(trials, lambda trial, attempt: records(trial) or -9)
    assert (trials[0].state, trials[0].failures) == ("done", 0)


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (5, 6)])
def test_a_failure_is_tried_again_so_often(retries: int, attempts: int) -> None:
    assert len(run(make("a"), lambda trial, attempt: 3, retries).attempts) == attempts


def test_what_was_killed_goes_on_as_long_as_it_saves_something_new() -> None:
    def script(trial: Trial, attempt: int) -> int | None:
        (saves if attempt <= 20 else records)(trial)
        return None if attempt % 2 else -9

    trials = make("a")
    assert len(run(trials, script, retries=0).attempts) == 21
    assert (trials[0].state, trials[0].failures) == ("done", 0)


def test_what_is_killed_again_and_again_with_nothing_saved_fails() -> None:
    trials = make("a")
    assert len(run(trials, lambda trial, attempt: -9).attempts) == 3
    assert trials[0].reason == "it printed nothing (killed by SIGKILL)"


def test_a_failure_counts_though_the_run_had_saved() -> None:
    trials = make("a")
    assert len(run(trials, lambda trial, attempt: saves(trial) or 3).attempts) == 3


def test_bad_input_is_not_tried_again() -> None:
    assert len(run(make("a"), lambda trial, attempt: 2).attempts) == 1


def test_one_that_fails_keeps_no_other_from_running() -> None:
    trials = make("a", "b")
    engine = run(trials, lambda trial, attempt: 3 if trial.name == "a" else records(trial) or 0)
    assert [trial.state for trial in trials] == ["failed", "done"]
    assert engine.attempts[:2] == ["a", "b"]


def test_one_that_saved_and_stopped_is_taken_up_again_and_it_is_no_failure() -> None:
    trials = make("a")
    engine = run(trials, lambda trial, attempt: saves(trial) or 75 if attempt < 9 else records(trial) or 0, retries=0)
    assert (trials[0].state, trials[0].failures, len(engine.attempts)) == ("done", 0, 9)


def test_one_that_another_process_holds_is_not_started() -> None:
    trials = make("a", "b")

    def script(trial: Trial, attempt: int) -> int:
        records(trial)
        records(trials[0])  # the other process has done with it
        return 0

    with claimed(trials[0].folder):
        engine = run(trials, script)
    assert engine.attempts == ["b"]
    assert [trial.state for trial in trials] == ["recorded", "done"]


def test_a_stop_leaves_no_trial_running() -> None:
    def script(trial: Trial, attempt: int) -> int:
        raise KeyboardInterrupt

    trials = make("a", "b")
    with pytest.raises(KeyboardInterrupt):
        run(trials, script)
    assert trials[1].state == "waiting"


def test_a_claim_holds_while_it_lasts_and_looking_does_no_harm() -> None:
    folder = Path("runs/a")
    assert not is_claimed(folder)
    with claimed(folder):
        assert is_claimed(folder)
    assert not is_claimed(folder)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7, 8, 9, 20])
def test_slots_share_all_cores_evenly_and_gpus_in_turn(workers: int) -> None:
    cores = [2, 3, 5, 7, 11, 13, 17, 19]
    made = slots(workers, cores, ["0", "4"])
    taken = [core for slot in made for core in slot.cores]
    assert set(taken) == set(cores)
    assert len(taken) == max(workers, len(cores))
    assert max(map(len, (slot.cores for slot in made))) - min(map(len, (slot.cores for slot in made))) <= 1
    assert [slot.gpu for slot in made] == ["0", "4"] * (workers // 2) + ["0"] * (workers % 2)
    assert slots(1, cores, [])[0] == Slot(tuple(cores), None)


def tell(words: list[str], conf: list[str]) -> int:
    Path(words[0]).write_text(f"{sorted(os.sched_getaffinity(0))} {os.environ['PLACE']}")
    print("said")
    return 7


def test_a_process_has_its_own_cores_its_environment_its_log_and_an_exit_code(tmp_path: Path) -> None:
    engine = LocalEngine(workers=1)
    engine.start("a", Task(tell, [str(tmp_path / "told")], [], tmp_path / "log" / "a.txt", {"PLACE": "here"}))
    assert not engine.has_room(Task(tell, [], [], tmp_path, {}))
    ended: list[tuple[str, int | None]] = []
    while not ended:
        ended = engine.ended(10.0)
    assert ended == [("a", 7)]
    assert (tmp_path / "told").read_text() == f"{sorted(os.sched_getaffinity(0))} here"
    assert (tmp_path / "log" / "a.txt").read_text() == "said\n"
    assert "PLACE" not in os.environ


def test_a_trial_of_several_processes_takes_as_many_slots(tmp_path: Path) -> None:
    engine = LocalEngine(workers=3)
    task = Task(tell, [str(tmp_path / "told")], [], tmp_path / "a.txt", {"PLACE": "here"}, processes=2)
    engine.start("a", task)
    assert not engine.has_room(task)
    assert engine.has_room(Task(tell, [], [], tmp_path, {}))
    assert LocalEngine(workers=1).has_room(task)  # more than there are: all of them
    engine.stop()
