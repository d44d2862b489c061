"""Loading what users have, and refusing what is broken: one sentence that names the thing, nothing written."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.tiny import TINY, inputs
from qonnx import model as models
from qonnx.errors import QonnxError
from qonnx.runtime import optimized, session

WEIGHT = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def proto(weight: np.ndarray = WEIGHT, opset: int = 17, **more) -> onnx.ModelProto:
    """y = x · w."""
    graph = helper.make_graph(
        more.get("nodes") or [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(folder: pathlib.Path, model: onnx.ModelProto, name: str = "m.onnx") -> pathlib.Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def external(folder: pathlib.Path, location: str = "m.data") -> pathlib.Path:
    path = folder / "m.onnx"
    onnx.save_model(proto(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    if location != "m.data":
        changed = onnx.load(path, load_external_data=False)
        changed.graph.initializer[0].external_data[0].value = location
        path.write_bytes(changed.SerializeToString())
    return path


def infinite() -> np.ndarray:
    bad = WEIGHT.copy()
    bad[3, 5] = np.inf
    return bad


def not_a_number() -> np.ndarray:
    bad = WEIGHT.copy()
    bad[63, 63] = np.nan
    return bad


def cyclic() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="second"),
        helper.make_node("Relu", ["b"], ["y"], name="third"),
    ]


def short_data(folder: pathlib.Path) -> pathlib.Path:
    path = external(folder)
    os.truncate(folder / "m.data", 1000)
    return path


def removed_data(folder: pathlib.Path) -> pathlib.Path:
    path = external(folder)
    (folder / "m.data").unlink()
    return path


def outside(folder: pathlib.Path) -> pathlib.Path:
    (folder / "in").mkdir()
    path = external(folder / "in", "../m.data")
    (folder / "in" / "m.data").rename(folder / "m.data")
    return path


def linked_outside(folder: pathlib.Path) -> pathlib.Path:
    (folder / "in").mkdir()
    path = external(folder / "in")
    (folder / "in" / "m.data").rename(folder / "secret")
    (folder / "in" / "m.data").symlink_to(folder / "secret")
    return path


def content(name: str, data: bytes):
    def make(folder: pathlib.Path) -> pathlib.Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def absent(folder: pathlib.Path) -> pathlib.Path:
    saved(folder, proto(), "encoder.onnx")
    return folder / "encodr.onnx"


WHOLE = proto().SerializeToString()

# Situation -> (how to make the file, words that the sentence must contain).
BAD = {
    "no such file, nearest name": (absent, ("encodr.onnx", "did you mean", "encoder.onnx")),
    "a folder": (lambda folder: folder, ("is a folder",)),
    "an empty file": (content("m.onnx", b""), ("m.onnx", "is empty")),
    "text": (content("m.onnx", b"hello, this is not a model at all"), ("m.onnx", "not an ONNX model")),
    "a zip archive": (content("m.onnx", b"PK\x03\x04" + bytes(100)), ("m.onnx", "PyTorch")),
    "a Git LFS pointer": (content("m.onnx", b"version https://git-lfs.github.com/spec/v1\noid"), ("git lfs pull",)),
    "cut in the weights": (content("m.onnx", WHOLE[: len(WHOLE) // 2]), ("m.onnx", "truncated")),
    "cut before the opset": (content("m.onnx", WHOLE[:-3]), ("m.onnx",)),
    "a cycle": (lambda f: saved(f, proto(nodes=cyclic())), ("cycle", "'first'", "'second'")),
    "a value from nowhere": (
        lambda f: saved(f, proto(nodes=[helper.make_node("MatMul", ["ghost", "w"], ["y"], name="product")])),
        ("product", "ghost"),
    ),
    "external data missing": (removed_data, ("m.data", "missing")),
    "external data short": (short_data, ("'w'", "16384", "1000")),
    "external data outside": (outside, ("'w'", "../m.data", "outside")),
    "external data absolute": (lambda f: external(f, "/etc/passwd"), ("/etc/passwd", "outside")),
    "external data linked outside": (linked_outside, ("m.data", "outside")),
    "NaN in a weight": (lambda f: saved(f, proto(not_a_number())), ("'w'", "NaN")),
    "infinity in a weight": (lambda f: saved(f, proto(infinite())), ("'w'", "infinity")),
    "opset too old": (lambda f: saved(f, proto(opset=7)), ("opset 7", "9 to 25")),
    "opset too new": (lambda f: saved(f, proto(opset=26)), ("opset 26", "9 to 25")),
    "no graph": (lambda f: saved(f, onnx.ModelProto(ir_version=8)), ("m.onnx", "no graph")),
}


@pytest.mark.parametrize("situation", BAD)
def test_bad_files_are_one_sentence(situation: str, tmp_path: pathlib.Path):
    make, words = BAD[situation]
    path = make(tmp_path)
    listing = sorted(tmp_path.rglob("*"))
    with pytest.raises(QonnxError) as caught:
        models.load(path)
    sentence = str(caught.value)
    for word in words:
        assert word in sentence
    assert "\n" not in sentence and caught.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == listing, "nothing is written"


@pytest.mark.parametrize("length", range(0, len(WHOLE), 997))
def test_a_file_cut_anywhere_is_refused(length: int, tmp_path: pathlib.Path):
    with pytest.raises(QonnxError, match=r"m\.onnx"):
        models.load(content("m.onnx", WHOLE[:length])(tmp_path))


def test_infinity_in_a_mask_is_no_fault(tmp_path: pathlib.Path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Constant", [], ["mask"], value=numpy_helper.from_array(np.full(64, -np.inf, np.float32))),
        helper.make_node("Add", ["p", "mask"], ["y"]),
    ]
    assert len(models.load(saved(tmp_path, proto(nodes=nodes))).graph) == 3


def test_nodes_out_of_order_are_sorted(tmp_path: pathlib.Path):
    nodes = [helper.make_node("Relu", ["b"], ["y"]), helper.make_node("MatMul", ["x", "w"], ["b"])]
    assert [n.op_type for n in models.load(saved(tmp_path, proto(nodes=nodes))).graph] == ["MatMul", "Relu"]


@pytest.mark.parametrize("tiny", TINY)
def test_saved_and_loaded_is_the_same(tiny: str, tmp_path: pathlib.Path):
    model = TINY[tiny]()
    size = models.save(model, tmp_path / "m.onnx", check=True)
    assert size == (tmp_path / "m.onnx").stat().st_size
    found = models.load(tmp_path / "m.onnx")
    assert models.sizes(found) == models.sizes(model)
    feeds = inputs(model)
    for a, b in zip(session(model).run(None, feeds), session(found).run(None, feeds), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "kind", ["FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "INT4", "UINT2", "FLOAT8E4M3FN", "FLOAT4E2M1"]
)
@pytest.mark.parametrize("beside", [False, True])
def test_every_type_of_weight_is_mapped_bit_by_bit(kind: str, beside: bool, tmp_path: pathlib.Path, monkeypatch):
    dtype = ir.DataType[kind]
    codes = np.random.default_rng(1).integers(0, 127, (48, 64))
    data = (codes % 4).astype(dtype.numpy()) if dtype.bitwidth < 8 else codes.astype(dtype.numpy())
    value = ir.Value(
        name="w", shape=ir.Shape(data.shape), type=ir.TensorType(dtype), const_value=ir.tensor(data, dtype)
    )
    node = ir.node("Identity", [value])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", value.type, value.shape
    graph = ir.Graph([], [node.outputs[0]], nodes=[node], initializers=[value], opset_imports={"": 25}, name="g")
    monkeypatch.setattr(models, "PROTOBUF_LIMIT", 0 if beside else models.PROTOBUF_LIMIT)
    models.save(ir.Model(graph, ir_version=13), tmp_path / "m.onnx")
    assert len(list(tmp_path.iterdir())) == 1 + beside
    found = models.load(tmp_path / "m.onnx").graph.initializers["w"].const_value
    assert found.dtype == dtype and found.tobytes() == value.const_value.tobytes()


def test_weights_of_a_loaded_model_are_views_of_the_file(tmp_path: pathlib.Path):
    found = models.load(saved(tmp_path, proto())).graph.initializers["w"].const_value.numpy()
    assert not found.flags.owndata and not found.flags.writeable
    np.testing.assert_array_equal(found, WEIGHT)


def test_save_refuses_its_input_even_with_force(tmp_path: pathlib.Path):
    model = models.load(external(tmp_path))
    for name in ("m.onnx", "m.data"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(QonnxError, match="never overwritten"):
            models.save(model, tmp_path / name, force=True)
        assert (tmp_path / name).read_bytes() == before


def test_save_overwrites_only_when_forced(tmp_path: pathlib.Path):
    model, path = TINY["SiLU"](), tmp_path / "out.onnx"
    models.save(model, path)
    with pytest.raises(QonnxError, match="--force"):
        models.save(model, path)
    models.save(model, path, force=True)


def test_save_into_a_missing_folder_names_it(tmp_path: pathlib.Path):
    with pytest.raises(QonnxError, match="nowhere"):
        models.save(TINY["SiLU"](), tmp_path / "nowhere" / "out.onnx")


def test_a_full_disk_leaves_what_was_there(tmp_path: pathlib.Path, monkeypatch):
    path = tmp_path / "out.onnx"
    path.write_bytes(b"precious")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(QonnxError, match="No space left"):
        models.save(TINY["SiLU"](), path, force=True)
    assert path.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [path]


def test_overwriting_replaces_the_old_data_file(tmp_path: pathlib.Path, monkeypatch):
    monkeypatch.setattr(models, "PROTOBUF_LIMIT", 0)
    first, second = proto(), proto(WEIGHT * 2)
    for each in (first, second):
        models.save(ir.from_proto(each), tmp_path / "out.onnx", force=True)
    assert len(list(tmp_path.iterdir())) == 2
    found = models.load(tmp_path / "out.onnx").graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(found, WEIGHT * 2)


def test_sessions_of_long_models_go_through_mapped_files(tmp_path: pathlib.Path, monkeypatch):
    import qonnx.runtime as runtime

    monkeypatch.setattr(runtime, "_IN_MEMORY", 0)
    x = np.ones((2, 64), np.float32)
    found = session(models.load(saved(tmp_path, proto()))).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, x @ WEIGHT, atol=64 * 2.0**-24 * abs(WEIGHT).sum(axis=0).max())


def test_an_unknown_operator_is_named_with_the_option_to_give():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17, "acme": 1]> g (float[2] x) => (float[2] y) { y = acme.Frob(x) }'
    )
    with pytest.raises(QonnxError, match=r"acme:Frob.*--custom-op-library"):
        session(model)


def test_a_library_that_cannot_be_loaded_is_named(tmp_path: pathlib.Path):
    fake = tmp_path / "libfake.so"
    fake.write_bytes(b"no library")
    with pytest.raises(QonnxError, match=r"libfake\.so"):
        session(TINY["SiLU"](), libraries=[str(fake)])


def test_the_optimised_graph_shows_what_the_runtime_fuses():
    kinds = [n.op_type for n in optimized(TINY["Conv and BatchNormalization"]()).graph.node]
    assert "BatchNormalization" not in kinds
