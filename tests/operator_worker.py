"""Runs operator cases in another process: natively, and by their function bodies; a crash there is a result here.

    with Worker() as worker:
        native, body = worker.run(case)

Each is a list of arrays, or a sentence. The process is started again after a crash.
"""

from __future__ import annotations

import contextlib
import pathlib
import pickle
import resource
import subprocess
import sys
import tempfile

import onnx_ir as ir
import onnxruntime as ort

from qonnx.custom_ops import library_path
from tests.operator_cases import Case, model_of

MEMORY = 4 << 30  # bytes that a case may have
ROOT = pathlib.Path(__file__).parents[1]


class Crash(Exception):
    """The process ended: its signal or status, and what it wrote to its error stream."""


class Worker:
    def __init__(self):
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stop()

    def _stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.stdout.close()
            self.errors.close()
            self.process = None

    def _start(self):
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        command = [sys.executable, "-m", "tests.operator_worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, cwd=ROOT
        )

    def run(self, case: Case, body: bool = True):
        """(native, body); body is None when not asked for. Raises Crash."""
        if self.process is None:
            self._start()
        try:
            pickle.dump((case, body), self.process.stdin)
            self.process.stdin.flush()
            return pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            status = self.process.wait()
            self.errors.seek(0)
            said = self.errors.read()[-2000:].decode(errors="replace")
            self._stop()
            raise Crash(f"status {status} at {case}\n{said}") from error


def outcome(case: Case, native: bool):
    """The outputs of a case, or the sentence that it is refused with."""
    try:
        model, feeds = model_of(case)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 2
        if native:
            options.register_custom_ops_library(library_path())
        opened = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
        return opened.run(None, feeds)
    except Exception as error:  # ONNX Runtime's classes derive from nothing in common
        return str(error) or type(error).__name__


def main():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while True:
        try:
            case, body = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        result = outcome(case, True), outcome(case, False) if body else None
        pickle.dump(result, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
