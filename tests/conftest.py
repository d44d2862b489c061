"""What several test files of the command line start from: a folder with a small model and its data."""

import os

import numpy as np
import onnx_ir as ir
import pytest

SMALL = """
<ir_version: 8, opset_import: ["": 17]>
agraph (float[N,32] x) => (float[N,32] y)
<float[32,64] w1, float[64] b1, float[64,32] w2>
{
  a = MatMul(x, w1)
  b = Add(a, b1)
  c = Relu(b)
  y = MatMul(c, w2)
}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with model.onnx (two products, named) and data.npz for it."""
    folder = tmp_path_factory.mktemp("cli")
    draw = np.random.default_rng(0)
    model = ir.from_onnx_text(SMALL.replace("<float[32,64] w1, float[64] b1, float[64,32] w2>", ""))
    free = {value.name: value for node in model.graph for value in node.inputs if value.producer() is None}
    for name, shape in {"w1": (32, 64), "b1": (64,), "w2": (64, 32)}.items():
        value = free[name]
        value.const_value = ir.tensor(draw.normal(size=shape).astype(np.float32), name=name)
        model.graph.register_initializer(value)
    for node, name in zip(model.graph, ("first", "shift", "relu", "second"), strict=True):
        node.name = name
    ir.save(model, folder / "model.onnx")
    np.savez(folder / "data.npz", x=draw.normal(size=(6, 32)).astype(np.float32))
    return folder


@pytest.fixture
def here(source, tmp_path, monkeypatch):
    """An empty current folder with the model and the data beside it."""
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "data.npz"):
        os.link(source / name, tmp_path / name)
    return tmp_path
