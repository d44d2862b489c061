"""Runs a converted job of qonnx.runtimes.exchange in LiteRT: python litert_runner.py FOLDER

For the Python of an environment that has ai-edge-litert and not qonnx: it imports neither.
"""

import importlib.metadata
import json
import pathlib
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter

PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL")


def main(folder: pathlib.Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    samples = [{name: read(folder, one) for name, one in sample.items()} for sample in job["samples"]]
    before, start = held("VmRSS"), time.perf_counter()
    path = folder / "converted" / f"{pathlib.Path(job['model']).stem}_float32.tflite"
    interpreter = Interpreter(model_path=str(path), num_threads=job["threads"])
    runner = interpreter.get_signature_runner()
    load = time.perf_counter() - start
    rows = []
    for index, sample in enumerate(samples):
        found = runner(**sample)
        rows.append({name: write(folder, f"out{index}_{k}.bin", found[name]) for k, name in enumerate(job["outputs"])})
    seconds, end = [], time.perf_counter() + job["seconds"]
    while not seconds or (len(seconds) < 50 and time.perf_counter() < end):
        start = time.perf_counter()
        runner(**samples[0])
        seconds.append(time.perf_counter() - start)
    result = {"load": load, "seconds": seconds, "memory": max(held("VmHWM") - before, 0) or None}
    result |= {"fused": products(interpreter), "samples": rows}
    result["version"] = f"LiteRT {importlib.metadata.version('ai-edge-litert')}"
    (folder / "result.json").write_text(json.dumps(result))


def read(folder: pathlib.Path, one: dict) -> np.ndarray:
    return np.fromfile(folder / one["file"], np.dtype(one["dtype"]).newbyteorder("<")).reshape(one["shape"])


def write(folder: pathlib.Path, file: str, array: np.ndarray) -> dict:
    np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tofile(folder / file)
    return {"file": file, "dtype": array.dtype.name, "shape": list(array.shape)}


def products(interpreter: Interpreter) -> str:
    """Products by the number type of their first input: "4 CONV_2D float32"."""
    types = {one["index"]: np.dtype(one["dtype"]).name for one in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()  # the only list of operators that the package has
    words = [f"{one['op_name']} {types[one['inputs'][0]]}" for one in operators if one["op_name"] in PRODUCTS]
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)) or "no products"


def held(what: str) -> int:
    """Bytes of memory: "VmRSS" held now, "VmHWM" the most so far; 0 where the system does not tell."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:")), 0)


if __name__ == "__main__":
    try:
        main(pathlib.Path(sys.argv[1]))
    except (RuntimeError, ValueError, KeyError) as error:  # how LiteRT says what it cannot do
        text = json.dumps({"error": f"{type(error).__name__}: {error}"[:2000]})
        (pathlib.Path(sys.argv[1]) / "result.json").write_text(text)
