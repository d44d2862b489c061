"""A program of another language or environment that does a job, and what it said if it leaves no result."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from qonnx.errors import QonnxError
from qonnx.runtimes.exchange import Job

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FAULT = re.compile("not support|unsupport|unknown|fail|error", re.I)


def run(
    command: Sequence[str], job: Job, limit: float, environment: Mapping[str, str] | None = None
) -> tuple[int, list[str]]:
    """Run `command` in the job's folder: its exit code and the lines that it said.

    limit: seconds. environment: variables that differ from this process's. Raises QonnxError if it takes longer.
    """
    try:
        done = subprocess.run(
            command,
            cwd=job.folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise QonnxError(f"{os.path.basename(command[0])} did not finish within {limit:g} s") from error
    said = _COLOURS.sub("", f"{done.stdout}\n{done.stderr}").splitlines()
    return done.returncode, [line.strip() for line in said if line.strip()]


def leave_result(command: Sequence[str], job: Job, limit: float, environment: Mapping[str, str] | None = None) -> None:
    """Run a `command` that leaves result.json in the job's folder; QonnxError with its last words if it does not."""
    code, said = run(command, job, limit, environment)
    if not (job.folder / "result.json").exists():
        raise QonnxError(f"it ended the process (exit code {code}): {(said or ['nothing said'])[-1][:300]}")


def fault(said: Sequence[str]) -> str:
    """Of the lines that a failing converter said, the last that names a fault."""
    telling = [line for line in said if _FAULT.search(line)]
    return (telling or said or ["it crashed without a word"])[-1][:300]
