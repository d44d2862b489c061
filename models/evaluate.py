"""Score a result against the float model it came from, on data that no conversion has seen: EVALUATE.

Works on any model derived from one of models/real.py, by qonnx or by another tool: it needs the interface of the float
model, nothing else. The result runs as a user would run it; `optimization="none"` shows what the file itself says.

    python -m models.evaluate vit-s result.onnx
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from models import antiberty, decode, pages, perplexity, photos, real, scores, smollm2, text_lines
from qonnx import latency, runtime
from qonnx.errors import QonnxError

Source = str | os.PathLike | bytes | ir.Model

FEATURES = "/backbone/layernorm/Add_1_output_0"  # the ViT's features [N,257,384], as its exporter named them
_LAYER_NORMS = {"LayerNormalization", "SkipLayerNormalization"}


def vit_s(result: Source, *, count: int = 54, optimization: str = "all", threads: int = 2) -> dict[str, float]:
    """Features at the last LayerNorm and the saliency map over `count` crops of the evaluation photos."""
    images = photos.crops("evaluation", count)
    maps, features = _float_outputs("vit-s", images, _with_features, threads)
    session = runtime.session(_with_features(result), optimization=optimization, threads=threads)
    result_maps, result_features = _outputs(session, images)
    ious = [scores.map_iou(a, b) for a, b in zip(maps, result_maps, strict=True)]
    return {
        "feature_sqnr_db": scores.sqnr(features, result_features),
        "feature_cosine": _mean(scores.cosine, features, result_features),
        "map_sqnr_db": scores.sqnr(maps, result_maps),
        "map_cosine": _mean(scores.cosine, maps, result_maps),
        "iou": float(np.mean(ious)),
        "iou_p10": float(np.percentile(ious, 10)),
    }


def _with_features(source: Source) -> bytes:
    """The model with its features as one more output, the last, serialised."""
    model = _proto(source)
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(feature_value(model.graph), onnx.TensorProto.FLOAT, None)
    )
    return model.SerializeToString()


def feature_value(graph: onnx.GraphProto) -> str:
    """The value that holds the ViT's features: by its name, else the output of the last LayerNormalization.

    A tool may fuse the LayerNorm or rename values; the decoder has no LayerNorm, so the last one is the backbone's.
    """
    if any(FEATURES in node.output for node in graph.node):
        return FEATURES
    norms = [node.output[0] for node in graph.node if node.op_type in _LAYER_NORMS]
    if not norms:
        raise QonnxError(
            f"the model has neither a value '{FEATURES}' nor a LayerNormalization; its features are not found"
        )
    return norms[-1]


def ppocr_rec(result: Source, *, count: int = 200, optimization: str = "all", threads: int = 2) -> dict[str, float]:
    """Texts read from `count` evaluation lines, against the float model's texts and against what was drawn."""
    lines = text_lines.lines("evaluation", count)
    arrays = [line.pixels for line in lines]
    classes = decode.characters(real.path("ppocr-rec"))
    (expected,) = _float_outputs("ppocr-rec", arrays, _as_it_is, threads)
    (probabilities,) = _outputs(runtime.session(result, optimization=optimization, threads=threads), arrays)
    read_by_float = [decode.greedy(line, classes) for line in expected]
    read = [decode.greedy(line, classes) for line in probabilities]
    return {
        "exact_float": float(np.mean([a == b for a, b in zip(read_by_float, read, strict=True)])),
        "exact_truth": float(np.mean([line.text == b for line, b in zip(lines, read, strict=True)])),
        "cer_float": scores.character_error_rate(read_by_float, read),
        "probability_sqnr_db": scores.sqnr(expected, probabilities),
        "float_exact_truth": float(np.mean([line.text == b for line, b in zip(lines, read_by_float, strict=True)])),
    }


def ppocr_det(result: Source, *, count: int = 40, optimization: str = "all", threads: int = 2) -> dict[str, float]:
    """Text boxes found on `count` evaluation pages, matched with the float model's boxes at IoU 0.5 or more."""
    arrays = pages.pages("evaluation", count)
    (expected,) = _float_outputs("ppocr-det", arrays, _as_it_is, threads)
    (maps,) = _outputs(runtime.session(result, optimization=optimization, threads=threads), arrays)
    boxes = [decode.boxes(page[0]) for page in expected]
    found = [decode.boxes(page[0]) for page in maps]
    matched = sum(scores.matched_boxes(a, b) for a, b in zip(boxes, found, strict=True))
    references, results = sum(map(len, boxes)), sum(map(len, found))
    return {
        "f1": scores.f1(matched, references, results),
        "precision": matched / results if results else 0.0,
        "recall": matched / references if references else 0.0,
        "probability_sqnr_db": scores.sqnr(expected, maps),
        "float_boxes": references,
    }


EVALUATE: dict[str, Callable[..., dict[str, float]]] = {
    "vit-s": vit_s,
    "ppocr-rec": ppocr_rec,
    "ppocr-det": ppocr_det,
    "smollm2": perplexity.evaluate,
    "antiberty": antiberty.evaluate,
}


_BUILT = {"smollm2": smollm2, "antiberty": antiberty}  # from weights in another form


def reference(name: str) -> pathlib.Path:
    """The float model that a key of EVALUATE is judged by."""
    return _BUILT[name].path() if name in _BUILT else real.path(name)


# Model -> one sample for timing: its first input, or all of them.
SAMPLES: dict[str, Callable[[], np.ndarray | dict[str, np.ndarray]]] = {
    "vit-s": lambda: photos.crops("evaluation", 1)[0],
    "ppocr-rec": lambda: text_lines.lines("evaluation", 1)[0].pixels,
    "ppocr-det": lambda: pages.pages("evaluation", 1)[0],
    "smollm2": perplexity.one,
    "antiberty": lambda: antiberty.samples("evaluation", 1),
}


def turns(name: str, result: Source, *, threads: int = 2) -> dict[str, float]:
    """Median time of one sample for the float model and the result, in turns, and the median of their ratios."""
    sessions = [runtime.session(source, threads=threads) for source in (reference(name), result)]
    feeds = tuple(_feed(session, SAMPLES[name]()) for session in sessions)
    timed = latency.latency(*sessions, feeds, threads=threads)
    return {
        "float_ms": 1e3 * timed.reference.median,
        "result_ms": 1e3 * timed.result.median,
        "latency_ratio": timed.ratio,
    }


def _float_outputs(
    name: str, arrays: list[np.ndarray], prepare: Callable[[pathlib.Path], Source], threads: int
) -> list[np.ndarray]:
    """The float model's outputs on `arrays`, kept in the cache: every result is scored against the same."""
    digest = hashlib.sha256(f"{name} {prepare.__name__} {ort.__version__}".encode())
    for array in arrays:
        digest.update(array.tobytes())
    kept = real.cache() / "float" / f"{name}-{digest.hexdigest()[:16]}.npz"
    if kept.exists():
        return list(np.load(kept).values())
    outputs = _outputs(runtime.session(prepare(real.path(name)), threads=threads), arrays)
    kept.parent.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(f".{os.getpid()}.npz")
    np.savez(unfinished, *outputs)
    unfinished.replace(kept)
    return outputs


def _as_it_is(source: Source) -> Source:
    return source


def _proto(source: Source) -> onnx.ModelProto:
    if isinstance(source, ir.Model):
        return ir.to_proto(source)
    return onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)


def _feed(session: ort.InferenceSession, array: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return array if isinstance(array, dict) else {session.get_inputs()[0].name: array}


def _outputs(session: ort.InferenceSession, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Every output over all samples, each joined along the first axis."""
    each = [session.run(None, _feed(session, array)) for array in arrays]
    return [np.concatenate(column) for column in zip(*each, strict=True)]


def _mean(score: Callable[[np.ndarray, np.ndarray], float], references: np.ndarray, results: np.ndarray) -> float:
    return float(np.mean([score(a, b) for a, b in zip(references, results, strict=True)]))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=EVALUATE)
    parser.add_argument("result", help="the ONNX file to score")
    parser.add_argument("--count", type=int, help="samples (default: the model's own number)")
    parser.add_argument("--optimization", choices=runtime.LEVELS, default="all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--latency", action="store_true", help="time it beside the float model as well")
    options = parser.parse_args(arguments)
    count = {} if options.count is None else {"count": options.count}
    try:
        evaluate = EVALUATE[options.model]
        figures = evaluate(options.result, optimization=options.optimization, threads=options.threads, **count)
        if options.latency:
            figures |= turns(options.model, options.result, threads=options.threads)
    except QonnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
