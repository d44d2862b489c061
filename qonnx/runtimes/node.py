"""onnxruntime-node from an installed node_modules folder, in a process of its own."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

from qonnx.errors import QonnxError
from qonnx.runtimes.exchange import Job

_SCRIPT = pathlib.Path(__file__).with_name("node_runner.cjs")
LIMIT = 900  # seconds


def program() -> str | None:
    return shutil.which("node") or shutil.which("nodejs")


def run_job(job: Job, node_modules: pathlib.Path) -> None:
    """Run the job; QonnxError with node's last words if it ends without a result."""
    command = [program() or "node", str(_SCRIPT), str(job.folder), str(node_modules.resolve())]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, check=False, env={**os.environ, "NODE_PATH": ""}
    )
    if not (job.folder / "result.json").exists():
        words = [line for line in done.stderr.splitlines() if line.strip()]
        raise QonnxError(f"node ended with exit code {done.returncode}: {(words or ['nothing said'])[-1][:300]}")
