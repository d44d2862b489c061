"""The benchmark: qonnx and its peers side by side in one run, on the real models, with the same samples.

    python -m models.bench vit-s ppocr-rec            ours, and ONNX Runtime's own tools
    python -m models.bench vit-s --peers all          NNCF, ModelOpt and Quark as well

Peers live in environments of their own under the cache, made on first use. Every conversion is a process of its own
whose wall time, CPU time and peak memory the operating system counts; then models/evaluate.py scores every result. A
peer's row is kept in the cache until its code or data changes; our rows and ONNX Runtime's min-max, which our times are
compared with, are run anew each time, one after the other. Tables go to models/results/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import threading
import time
import venv
from dataclasses import asdict, dataclass, field

from models import peers, real, tables

FOLDER = pathlib.Path(__file__).resolve().parent
RIVAL = "ORT static min-max"  # measured beside ours in every run
DATA = {"vit-s": "models.photos", "ppocr-rec": "models.text_lines", "ppocr-det": "models.pages"}
_TIME_LIMIT = 1800  # seconds for one conversion

# Ours: row -> options of qonnx.convert. The comparison that `qonnx convert` ends with is not part of the time.
OURS: dict[str, dict[str, str | int]] = {
    "qonnx static W8A8": {"recipe": "static-w8a8"},
    "qonnx static W8A16": {"recipe": "static-w8a16"},
    "qonnx weights 8 bit": {"recipe": "weight-int8"},
}
_CONVERT = """
import json, sys
from qonnx.conversion import convert
from qonnx.model import save
model, data, output, options = sys.argv[1:]
save(convert(model, data=data, **json.loads(options)).model, output, force=True)
"""


@dataclass(frozen=True)
class Row:
    """One conversion and its scores; `error` holds the last line of what failed."""

    name: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    file_mb: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    error: str | None = None


def bench(name: str, *, all_peers: bool, samples: int, only: str | None = None) -> list[Row]:
    """All rows of one model: ours first, then the rival, then the other peers."""
    data = _data(name, samples)
    rows = []
    for title, options in OURS.items():
        if _wanted(title, only):
            command = [sys.executable, "-c", _CONVERT, str(real.path(name)), str(data)]
            rows.append(_row(name, title, command, (json.dumps(options),)))
    for title, peer in peers.PEERS.items():
        if name not in peer.models or not (peer.by_default or all_peers) or not _wanted(title, only):
            continue
        rows.append(_peer_row(name, title, data, fresh=title == RIVAL))
    return rows


def _wanted(title: str, only: str | None) -> bool:
    return only is None or re.search(only, title) is not None


def _peer_row(name: str, title: str, data: pathlib.Path, *, fresh: bool) -> Row:
    """The row of a peer, from the cache unless `fresh` or something that it depends on has changed."""
    sources = ["peers", "evaluate", "scores", "decode", "photos", "text_lines", "pages"]
    digest = hashlib.sha256(data.read_bytes())
    for source in sources:
        digest.update((FOLDER / f"{source}.py").read_bytes())
    kept = _results(name) / f"{_slug(title)}.json"
    if not fresh and kept.exists() and (found := json.loads(kept.read_text()))["key"] == digest.hexdigest():
        return Row(**found["row"])
    python = environment(peers.PEERS[title].environment)
    row = _row(name, title, [str(python), str(FOLDER / "peers.py"), title, str(real.path(name)), str(data)])
    kept.write_text(json.dumps({"key": digest.hexdigest(), "row": asdict(row)}))
    return row


def _row(name: str, title: str, command: list[str], more: tuple[str, ...] = ()) -> Row:
    """Convert and score. The result file is the argument after `command`; `more` follows it."""
    output = _results(name) / f"{_slug(title)}.onnx"
    output.unlink(missing_ok=True)
    print(f"{name}: {title} …", file=sys.stderr, flush=True)
    log = output.with_suffix(".log")
    code, seconds, cpu_seconds, peak_mib = measured([*command, str(output), *more], log)
    if code or not output.exists():
        return Row(title, seconds, cpu_seconds, peak_mib, error=_last_line(log) or f"exit code {code}, nothing written")
    size = sum(
        file.stat().st_size for file in output.parent.glob(f"{output.name}*") if file.suffix in (".onnx", ".data")
    )
    evaluate = [sys.executable, "-m", "models.evaluate", name, str(output), "--latency"]
    scored = subprocess.run(evaluate, capture_output=True, text=True, check=False, cwd=FOLDER.parent)
    if scored.returncode:
        reason = (scored.stderr.strip().splitlines() or ["no message"])[-1]
        return Row(title, seconds, cpu_seconds, peak_mib, size / 1e6, error=reason)
    return Row(title, seconds, cpu_seconds, peak_mib, size / 1e6, json.loads(scored.stdout))


def measured(command: list[str], log: pathlib.Path) -> tuple[int, float, float, float]:
    """Run a process: exit code, wall seconds, CPU seconds and peak resident MiB, its children's included.

    This process must stay small: the kernel counts what a child was before it became another program.
    """
    environment_variables = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(FOLDER.parent)}
    if command[0] != sys.executable:
        environment_variables.pop("PYTHONPATH")  # a peer's environment knows nothing of ours
    start = time.perf_counter()
    with log.open("w") as handle:
        process = subprocess.Popen(command, stdout=handle, stderr=subprocess.STDOUT, env=environment_variables)
        limit = threading.Timer(_TIME_LIMIT, process.kill)
        limit.start()
        _, status, used = os.wait4(process.pid, 0)
        limit.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait again
    peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # the unit is bytes there, KiB elsewhere
    return process.returncode, time.perf_counter() - start, used.ru_utime + used.ru_stime, peak


def environment(name: str) -> pathlib.Path:
    """The Python of a peer's environment, made and filled by pip on first use."""
    folder = real.cache() / "environments" / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    requirements = "\n".join(peers.ENVIRONMENTS[name])
    stamp = folder / "requirements.txt"
    if stamp.exists() and stamp.read_text() == requirements:
        return python
    print(f"making the environment of {name} …", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *peers.ENVIRONMENTS[name]], check=True)
    stamp.write_text(requirements)
    return python


def _data(name: str, samples: int) -> pathlib.Path:
    """The calibration samples as .npz, written by a child so that this process stays small."""
    file = _results(name) / f"calibration-{samples}.npz"
    command = [sys.executable, "-m", DATA[name], "calibration", str(samples), str(file)]
    subprocess.run(command, check=True, cwd=FOLDER.parent)
    return file


def _results(name: str) -> pathlib.Path:
    folder = real.cache() / "bench" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _last_line(log: pathlib.Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else ""


def machine() -> dict[str, str | int | bool]:
    """What the times depend on."""
    cpu = pathlib.Path("/proc/cpuinfo")
    text = cpu.read_text() if cpu.exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", text)
    return {
        "cpu": model.group(1) if model else platform.processor() or platform.machine(),
        "vnni": "avx512_vnni" in text or "avx_vnni" in text,
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", choices=real.REAL)
    parser.add_argument("--peers", choices=("default", "all"), default="default")
    parser.add_argument("--samples", type=int, default=32, help="calibration samples (default 32)")
    parser.add_argument("--only", metavar="REGEX", help="rows whose name matches; the table is printed, not written")
    options = parser.parse_args(arguments)
    for name in options.models:
        rows = bench(name, all_peers=options.peers == "all", samples=options.samples, only=options.only)
        text = tables.markdown(name, rows, options.samples, machine())
        print(text)
        if options.only is None:
            results = FOLDER / "results"
            results.mkdir(exist_ok=True)
            (results / f"{name}.md").write_text(text)
            facts = {"model": name, "samples": options.samples, "machine": machine(), "rows": [asdict(r) for r in rows]}
            (results / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
