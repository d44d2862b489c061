"""Rows of the tables of weight-only quantization: TABLES, by model, then by table.

A row is the TOML of a recipe, or the name of a peer (models/peers.py). Rows of one table differ in one thing, so that
their sizes match. What reads the inputs of an image model keeps 8 bits, a few per cent of the weights.
"""

from __future__ import annotations

import json

Rows = dict[str, str]

_WITHOUT_DATA = ("nearest", "hqq", "pvq")
_RIDGE = 0.3  # of least squares on 16 000 tokens


def _recipe(passes: list[str], **options: dict) -> str:
    lines = ["version = 1", 'title = "row of a table"', f"passes = {json.dumps(passes)}", "[options.convert_opset]"]
    lines.append("opset = 25")
    for name, given in options.items():
        values = (f"{key} = {value if value == float('inf') else json.dumps(value)}" for key, value in given.items())
        lines += [f"[options.{name}]", *values]
    return "\n".join(lines) + "\n"


def _turn(solver: str, ridge: float = float("inf")) -> dict:
    return {"solver": solver, "ridge": ridge, "residual": ridge < float("inf"), "attention": True}


def integers(solver: str, ridge: float = float("inf"), **assign) -> str:
    """Codes of one grid by one solver; those that look at data go layer after layer. ridge: of the least squares
    towards the float targets that come first."""
    way = "solve_weights" if solver in _WITHOUT_DATA else "solve_in_turn"
    passes = ["spell", "split_conv_transpose", "patches_to_matmul", "label", "share_tables", "assign_weights", way]
    passes += ["place_low_bit", "place_qdq", "lower", "narrow_constants", "tidy"]
    solve = {"solver": solver} if way == "solve_weights" else _turn(solver, ridge)
    return _recipe(passes, assign_weights={"edges": "8", **assign}, **{way: solve})


def books(format: str, solver: str = "additive", ridge: float = float("inf")) -> str:
    """Code books, layer after layer; what they do not pay for keeps 8 bits."""
    passes = ["spell", "patches_to_matmul", "label", "share_tables", "assign_codebooks", "assign_weights"]
    passes += ["solve_in_turn", "place_codebooks", "place_low_bit", "place_qdq", "lower", "narrow_constants", "tidy"]
    turn = _turn(solver, ridge)
    return _recipe(passes, assign_codebooks={"format": format}, assign_weights={"bits": 8}, solve_in_turn=turn)


def _solvers(*names: str, **assign) -> Rows:
    return {name: integers(name, **assign) for name in names}


def _least_squares(*names: str, **assign) -> Rows:
    return {f"{name}, least squares first": integers(name, _RIDGE, **assign) for name in names}


_ORT = {
    "ONNX Runtime MatMulNBits, RTN": "ORT weights 4 bit, block 32",
    "ONNX Runtime MatMulNBits, HQQ": "ORT weights 4 bit, block 32, HQQ",
}
_ORT_2 = {"ONNX Runtime MatMulNBits, 2 bit, block 32": "ORT weights 2 bit, block 32"}
_HALF, _BYTE = {"scale_bits": 16}, {"scale_bits": 8}
_FORMATS = ("nf4", "fp4", "mxfp4", "nvfp4", "pot4", "sqrt2-4", "half4")

TABLES: dict[str, dict[str, Rows]] = {
    "vit-s": {
        "4 bit, blocks of 32": {
            **_solvers("nearest", "hqq", "pvq", "gptq", "lwc", "slim", "quantease", bits=4, block=32),
            **_ORT,
        },
        "4 bit, blocks of 16": _solvers("nearest", "gptq", "quantease", bits=4, block=16),
        "4 bit, blocks of 8, float16 scales": _solvers("quantease", bits=4, block=8, **_HALF),
        "4 bit, blocks of 32, 8-bit scales": _solvers("gptq", "quantease", bits=4, block=32, **_BYTE),
        "3 bit, blocks of 16, float16 scales": _solvers("nearest", "gptq", "quantease", bits=3, block=16, **_HALF),
        "3 bit, blocks of 16, 8-bit scales": _solvers("gptq", "quantease", bits=3, block=16, **_BYTE),
        "3 bit, blocks of 8, float16 scales": _solvers("quantease", bits=3, block=8, **_HALF),
        "2 bit, blocks of 16, float16 scales": {
            **_solvers("nearest", "gptq", "quantease", bits=2, block=16, **_HALF),
            **_ORT_2,
        },
        "Code books": {name: books(name) for name in ("1x8v4", "2x8v8", "1x8v3", "3x8v8")},
        "5 and 6 bit, blocks of 32, float16 scales": {
            f"{bits} bit, quantease": integers("quantease", bits=bits, block=32, **_HALF) for bits in (5, 6)
        },
        "Other grids of 16 levels, GPTQ": {name: integers("gptq", bits=4, table=name) for name in _FORMATS},
    },
    "smollm2": {
        "4 bit, blocks of 32, float16 scales": {
            **_solvers("nearest", "hqq", "gptq", "quantease", bits=4, block=32, **_HALF),
            **_least_squares("gptq", "quantease", bits=4, block=32, **_HALF),
            **_ORT,
        },
        "4 bit, blocks of 32, 8-bit scales": _least_squares("gptq", bits=4, block=32, **_BYTE),
        "4 bit, NormalFloat": {name: integers(name, bits=4, table="nf4") for name in ("nearest", "gptq")},
        "3 bit, blocks of 16, float16 scales": {
            **_solvers("nearest", "hqq", "gptq", bits=3, block=16, **_HALF),
            **_least_squares("gptq", "quantease", bits=3, block=16, **_HALF),
        },
        "3 bit, blocks of 16, 8-bit scales": _least_squares("gptq", bits=3, block=16, **_BYTE),
        "2 bit, blocks of 16, float16 scales": {
            **_solvers("nearest", "hqq", "gptq", bits=2, block=16, **_HALF),
            **_least_squares("gptq", bits=2, block=16, **_HALF),
            **_ORT_2,
        },
        "Code books, least squares first": {name: books(name, ridge=_RIDGE) for name in ("1x8v4", "2x8v8", "1x8v3")},
    },
    "antiberty": {
        "4 bit, blocks of 32, 8-bit scales": {
            **_solvers("nearest", "gptq", "quantease", bits=4, block=32, **_BYTE),
            **_ORT,
        },
        "4 bit, NormalFloat, blocks of 64, 8-bit scales": {
            name: integers(name, bits=4, table="nf4", block=64, **_BYTE) for name in ("nearest", "gptq")
        },
        "3 bit, blocks of 16, 8-bit scales": _solvers("nearest", "gptq", "quantease", bits=3, block=16, **_BYTE),
        "2 bit, blocks of 16, 8-bit scales": {
            **_solvers("nearest", "gptq", "quantease", bits=2, block=16, **_BYTE),
            **_ORT_2,
        },
        "Code books": {name: books(name) for name in ("1x8v4", "2x8v8", "3x8v8")},
    },
    "ppocr-rec": {
        "4 bit, blocks of 32": {**_solvers("nearest", "hqq", "gptq", "quantease", bits=4, block=32), **_ORT},
        "3 bit, blocks of 16, float16 scales": _solvers("nearest", "gptq", "quantease", bits=3, block=16, **_HALF),
        "2 bit, blocks of 16, float16 scales": _solvers("nearest", "gptq", "quantease", bits=2, block=16, **_HALF),
    },
}
