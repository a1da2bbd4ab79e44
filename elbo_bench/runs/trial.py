"""What a process does with a trial of a sweep: train, evaluate and record it."""

import signal
import subprocess
import sys

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue, Config
from elbo_bench.errors import ElboBenchError, StoppedError
from elbo_bench.files import runs_root
from elbo_bench.output import say
from elbo_bench.runs.content_hash import with_content_hash


def run_trial(words: list[str], conf: list[str]) -> int:
    """Train, evaluate and record one trial in this process, and return its exit code."""
    from elbo_bench.runs.train import train  # here, where a warm parent has imported it

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        catalogue = Catalogue.of(conf)
        cfg = with_content_hash(config.check(config.resolve(words, catalogue), catalogue), catalogue)
        if processes(cfg) > 1:  # ranks are started by running the same command again
            folders = [word for each in conf for word in ("--conf", each)]
            return _in_a_process([sys.executable, "-m", "elbo_bench", "train", *words, *folders])
        train(cfg, catalogue, runs_root() / config.run_id(cfg))
    except ElboBenchError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return StoppedError.exit_code
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def processes(cfg: Config) -> int:
    """Return how many processes a run starts on one machine."""
    devices = cfg["trainer"].get("devices")
    if isinstance(devices, list):
        return max(1, len(devices))
    return int(devices) if isinstance(devices, int) or (isinstance(devices, str) and devices.isdecimal()) else 1


def _in_a_process(command: list[str]) -> int:
    """Run a command, pass on the signal that stops this process, and return its exit code."""
    process = subprocess.Popen(command)  # noqa: S603
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        return process.wait(60)
