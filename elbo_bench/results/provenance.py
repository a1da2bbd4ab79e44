"""Provenance of a result: the code, the libraries and the machine."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import elbo_bench

_LIBRARIES = ("lightning", "numpy", "omegaconf", "torch")


def provenance() -> dict[str, Any]:
    """Return the versions of code and libraries, the git commit, and the processor."""
    commit, modified = _git_commit()
    return {
        "elbo_bench": elbo_bench.__version__,
        "git_commit": commit,
        "git_modified": modified,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _git_commit() -> tuple[str | None, bool | None]:
    """Return the git commit of the code and whether files were changed since; None if the code is no checkout."""
    root = Path(elbo_bench.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
