"""A library with CUDA kernels in onnxruntime-gpu on a machine without a GPU: it loads, says so, and runs on the CPU.

QONNX_GPU_PYTHON names the Python of an environment with onnxruntime-gpu and numpy, QONNX_CUDA_LIBRARY a library built
with -DQONNX_CUDA=ON; without them this Python and the installed library are looked at.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest

from models import digits, real
from qonnx.conversion import convert
from qonnx.custom_ops import library_path
from qonnx.custom_ops.codebook import EXACT as CODEBOOK
from qonnx.custom_ops.lowbit import EXACT as LOW_BIT
from qonnx.runtime import session
from tests.operator_cases import EXAMPLES, Size, model_of

_RUN = """
import json, sys
import numpy as np
import onnxruntime as ort
library, model, feeds, results = sys.argv[1:]
options = ort.SessionOptions()
options.register_custom_ops_library(library)
opened = ort.InferenceSession(model, options, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
with np.load(feeds) as arrays:
    np.savez(results, *opened.run(None, dict(arrays)))
print(json.dumps({"offered": ort.get_available_providers(), "used": opened.get_providers()}))
"""
_HAS_PROVIDER = (
    "import onnxruntime, sys; sys.exit('CUDAExecutionProvider' not in onnxruntime.get_available_providers())"
)
_HAS_DEVICE = os.path.exists("/proc/driver/nvidia/version")


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of an environment with onnxruntime-gpu."""
    found = os.environ.get("QONNX_GPU_PYTHON", sys.executable)
    if subprocess.run([found, "-c", _HAS_PROVIDER], capture_output=True).returncode:
        pytest.skip("onnxruntime-gpu is not installed; name the Python of its environment in QONNX_GPU_PYTHON")
    return found


@pytest.fixture(scope="module")
def library() -> str:
    """A library that holds code for GPUs."""
    found = os.environ.get("QONNX_CUDA_LIBRARY") or library_path()
    if found is None or b".nv_fatbin" not in pathlib.Path(found).read_bytes():
        pytest.skip("no library with CUDA kernels; build one with -DQONNX_CUDA=ON and name it in QONNX_CUDA_LIBRARY")
    return found


def check_fallback(python, library, folder, model: bytes, feeds: dict[str, np.ndarray]) -> None:
    """Both environments give the same numbers, and the one with the provider tells why it is not used."""
    (folder / "model.onnx").write_bytes(model)
    np.savez(folder / "feeds.npz", **feeds)
    names = [str(folder / name) for name in ("model.onnx", "feeds.npz", "results.npz")]
    done = subprocess.run([python, "-c", _RUN, library, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert "CUDAExecutionProvider" in told["offered"] and told["used"] == ["CPUExecutionProvider"]
    assert "CUDAExecutionProvider" in done.stderr, "a notice"
    wanted = session(model).run(None, feeds)
    with np.load(names[2]) as found:
        for index, right in enumerate(wanted):
            np.testing.assert_array_equal(found[f"arr_{index}"], right)


@pytest.mark.native
@pytest.mark.skipif(_HAS_DEVICE, reason="this machine has a GPU")
@pytest.mark.parametrize("op", [LOW_BIT, CODEBOOK])
def test_a_node_falls_back_to_the_cpu(python, library, tmp_path, op):
    model, feeds = model_of(EXAMPLES[op](op, Size(rows=40, columns=128)))
    check_fallback(python, library, tmp_path, ir.to_proto(model).SerializeToString(), feeds)


@pytest.mark.slow
@pytest.mark.native
@pytest.mark.skipif(_HAS_DEVICE, reason="this machine has a GPU")
@pytest.mark.parametrize("recipe", ["weight-int3", "weight-codebook-2bit"])
def test_a_converted_model_falls_back_to_the_cpu(python, library, tmp_path, recipe):
    images, _ = digits.samples("calibration", 40)
    samples = [{digits.INPUT: image[None]} for image in images]
    output = tmp_path / "quantized.onnx"
    convert(digits.VIT, data=samples, recipe=recipe, target="ort-cpu", output=output, quiet=True)
    check_fallback(python, library, tmp_path, output.read_bytes(), {digits.INPUT: images})


# Each with the nodes that it is for: books of all layers take minutes.
_RECIPES = {
    LOW_BIT: (
        """
version = 1
title = "4 bits with float16 scales"
passes = ["spell", "label", "assign_weights", "solve_weights", "place_low_bit", "place_qdq", "lower", "tidy"]
[options.assign_weights]
bits = 4
block = 32
scale_bits = 16
""",
        "*",
        72,
    ),
    CODEBOOK: (
        """
version = 1
title = "indices of 8 bits for 4 numbers"
passes = ["spell", "label", "assign_codebooks", "solve_weights", "place_codebooks", "place_qdq", "lower", "tidy"]
[options.assign_codebooks]
format = "1x8v4"
""",
        "*attention/output/dense/*",
        12,
    ),
}


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.native
@pytest.mark.skipif(_HAS_DEVICE, reason="this machine has a GPU")
@pytest.mark.parametrize("op", _RECIPES)
def test_a_vision_transformer_falls_back_to_the_cpu(python, library, tmp_path, op):
    text, nodes, products = _RECIPES[op]
    recipe, output = tmp_path / "recipe.toml", tmp_path / "quantized.onnx"
    recipe.write_text(text, encoding="utf-8")
    source = real.path("vit-s")
    convert(source, recipe=str(recipe), target="ort-cpu", nodes_to_quantize=[nodes], output=output, quiet=True)
    model = ir.load(output)
    assert sum(node.op_type == op for node in model.graph) == products
    x = model.graph.inputs[0]
    image = np.random.default_rng(0).standard_normal([n if isinstance(n, int) else 1 for n in x.shape])
    check_fallback(python, library, tmp_path, output.read_bytes(), {x.name: image.astype(np.float32)})
