"""The process that sends one run to W&B. It reads lines of JSON, and the record once the run has one.

`wandb_tracker.py` starts it as `python -m elbo_bench.tracking.mirror`. If the pipe ends without a last message, the run
was killed, and W&B shows it as crashed.
"""

import contextlib
import json
import os
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import wandb

from elbo_bench.results.record import RESULT, read_examples, read_result

_KILLED = 137


def main(lines: IO[str]) -> None:
    """Mirror one run until its pipe ends."""
    run: Any = None
    folder, exit_code = Path(), _KILLED
    try:
        for message in _messages(lines):
            if "hello" in message:
                run, folder = _start(message["hello"]), Path(message["hello"]["dir"])
            elif "log" in message:
                run.log(message["log"])
            elif "finish" in message:
                exit_code = 0
                _record(run, Path(message["finish"]))
            elif "abandon" in message:
                exit_code = message["abandon"]
        if exit_code == _KILLED and run is not None and (folder / RESULT).is_file():
            exit_code = 0  # the last message was lost, but there is a record: the run succeeded
            _record(run, folder)
    except Exception as error:
        print(f"elbo-bench: W&B: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
    if run is not None:
        run.finish(exit_code=exit_code)


def _messages(lines: IO[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with contextlib.suppress(ValueError):  # an incomplete line of a writer that was killed
            yield json.loads(line)


def _start(hello: Mapping[str, Any]) -> Any:
    settings = wandb.Settings(
        silent=True,
        console="off",
        x_stats_pid=hello["watched_pid"],
        init_timeout=30,
        disable_code=True,
        disable_git=True,
    )
    mode = hello["mode"]
    if mode == "online" and not _reachable():
        mode = "offline"
        print("elbo-bench: W&B cannot be reached: the run is mirrored offline, for `wandb sync`", file=sys.stderr)  # noqa: T201
    keys = ("project", "entity", "id", "name", "group", "job_type", "dir", "config")
    arguments = {key: hello[key] for key in keys}
    try:
        run = wandb.init(mode=mode, settings=settings, resume="allow" if mode == "online" else None, **arguments)
    except Exception as error:
        if mode == "offline":
            raise
        reason = " ".join(str(error).split())
        print(f"elbo-bench: W&B: {reason}: the run is mirrored offline, for `wandb sync`", file=sys.stderr)  # noqa: T201
        run = wandb.init(mode="offline", settings=settings, **arguments)
    run.define_metric("step", hidden=True)
    for prefix in ("train", "val"):
        run.define_metric(f"{prefix}/*", step_metric="step")
    return run


def _reachable(seconds: float = 3.0) -> bool:
    """Return whether the W&B server accepts a connection. The W&B client would try for a minute."""
    if urllib.request.getproxies():
        return True  # behind a proxy this cannot be tested
    address = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url)
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        with socket.create_connection((address.hostname or "", port), timeout=seconds):
            return True
    except (OSError, ValueError):
        return False


def _record(run: Any, folder: Path) -> None:
    """Send a record: every metric with its errors, the curve of L_K, the examples and the pictures."""
    result, examples = read_result(folder), read_examples(folder)
    summary: dict[str, Any] = {
        "truth": result["truth"]["tier"],
        **{f"diagnostics/{k}": v for k, v in result["diagnostics"].items()},
    }
    curve = []
    for name, metric in result["metrics"].items():
        key = f"test/{name}"
        summary[key] = metric["value"]
        for error in ("se_test", "se_mc"):
            if metric[error] is not None:
                summary[f"{key}_{error}"] = metric[error]
        if name.startswith("L_") and name[2:].isdecimal():
            curve.append([int(name[2:]), metric["value"], metric["se_mc"]])
    run.summary.update(summary)
    if curve:
        table = wandb.Table(columns=["K", "L_K", "se_mc"], data=sorted(curve))
        run.log({"test/k_curve": wandb.plot.line(table, "K", "L_K", title="L_K, a lower bound on log p(x)")})
    columns: list[str | int] = [*examples]
    rows = [list(row) for row in zip(*(examples[name].tolist() for name in examples), strict=True)]
    artifact = wandb.Artifact(f"examples-{result['run_id'][-10:]}", type="examples")
    artifact.add(wandb.Table(columns=columns, data=rows), "examples")
    run.log_artifact(artifact)
    pictures = {f"images/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))}
    if pictures:
        run.log(pictures)


if __name__ == "__main__":
    main(sys.stdin)
