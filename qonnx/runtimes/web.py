"""onnxruntime-web (WebAssembly) in a real headless browser, with the files of an installed npm package."""

from __future__ import annotations

import pathlib
import time

from qonnx.errors import QonnxError
from qonnx.runtimes.browser import browsing, served
from qonnx.runtimes.exchange import Job

_PAGE = pathlib.Path(__file__).parent
LIMIT = 900  # seconds


def run_job(job: Job, node_modules: pathlib.Path) -> None:
    """Run the job in a page; the page posts its outputs and, last, result.json into the job's folder."""
    package = node_modules / "onnxruntime-web" / "dist"
    folders = {"job": job.folder, "post": job.folder, "ort": package, "page": _PAGE}
    with served(folders) as (address, done), browsing(f"{address}/page/web_runner.html") as process:
        end = time.monotonic() + LIMIT
        while not done.wait(0.5):
            if process.poll() is not None:
                raise QonnxError(f"the browser ended with exit code {process.returncode} before the page was done")
            if time.monotonic() > end:
                raise QonnxError(f"the page gave no result within {LIMIT} s")
