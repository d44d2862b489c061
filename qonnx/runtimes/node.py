"""onnxruntime-node from an installed node_modules folder, in a process of its own."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

from qonnx.runtimes import processes
from qonnx.runtimes.exchange import Job

_SCRIPT = pathlib.Path(__file__).with_name("node_runner.cjs")
LIMIT = 900  # seconds
OLDEST = 18  # major version whose binary interface onnxruntime-node is built for


def program() -> str | None:
    return shutil.which("node") or shutil.which("nodejs")


def missing() -> str:
    """How to get a node that onnxruntime-node runs in; "" if there is one."""
    found = program()
    if found is None:
        return f"node is not installed; install Node.js {OLDEST} or newer"
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = re.match(r"v(\d+)", version)
    if major is None or int(major[1]) < OLDEST:
        return f"node is {version or 'of an unknown version'}; install Node.js {OLDEST} or newer"
    return ""


def run_job(job: Job, node_modules: pathlib.Path) -> None:
    """Run the job; QonnxError with node's last words if it ends without a result."""
    command = [program() or "node", str(_SCRIPT), str(job.folder), str(node_modules.resolve())]
    processes.leave_result(command, job, LIMIT, {"NODE_PATH": ""})
