"""Score a result against the float model it came from, on data that no conversion has seen: EVALUATE.

Works on any model derived from one of models/real.py, by qonnx or by another tool: it needs the interface of the float
model, nothing else. The result runs as a user would run it; `optimization="none"` shows what the file itself says.

    python -m models.evaluate vit-s result.onnx
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from models import decode, pages, photos, real, scores, text_lines
from qonnx import latency, runtime
from qonnx.errors import QonnxError

Source = str | os.PathLike | bytes | ir.Model

FEATURES = "/backbone/layernorm/Add_1_output_0"  # the ViT's features [N,257,384], as its exporter named them
_LAYER_NORMS = {"LayerNormalization", "SkipLayerNormalization"}


def vit_s(result: Source, *, count: int = 54, optimization: str = "all", threads: int = 2) -> dict[str, float]:
    """Features at the last LayerNorm and the saliency map over `count` crops of the evaluation photos."""
    images = photos.crops("evaluation", count)
    features, maps = _vit_reference(count, threads)
    with_features = _with_output(_proto(result), feature_value)
    session = runtime.session(with_features, optimization=optimization, threads=threads)
    result_features = np.concatenate(
        [session.run([session.get_outputs()[-1].name], _feed(session, x))[0] for x in images]
    )
    session = runtime.session(result, optimization=optimization, threads=threads)
    result_maps = np.concatenate(list(_outputs(session, images)))
    ious = [scores.map_iou(a, b) for a, b in zip(maps, result_maps, strict=True)]
    return {
        "feature_sqnr_db": scores.sqnr(features, result_features),
        "feature_cosine": _mean(scores.cosine, features, result_features),
        "map_sqnr_db": scores.sqnr(maps, result_maps),
        "map_cosine": _mean(scores.cosine, maps, result_maps),
        "iou": float(np.mean(ious)),
        "iou_p10": float(np.percentile(ious, 10)),
    }


@functools.lru_cache(maxsize=2)
def _vit_reference(count: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    proto = _with_output(onnx.load(real.path("vit-s")), feature_value)
    session = runtime.session(proto, threads=threads)
    pairs = [session.run(None, _feed(session, x)) for x in photos.crops("evaluation", count)]
    return np.concatenate([features for _, features in pairs]), np.concatenate([maps for maps, _ in pairs])


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
    expected, read_by_float, classes = _rec_reference(count, threads)
    session = runtime.session(result, optimization=optimization, threads=threads)
    probabilities = np.concatenate(list(_outputs(session, [line.pixels for line in lines])))
    read = [decode.greedy(line, classes) for line in probabilities]
    return {
        "exact_float": float(np.mean([a == b for a, b in zip(read_by_float, read, strict=True)])),
        "exact_truth": float(np.mean([line.text == b for line, b in zip(lines, read, strict=True)])),
        "cer_float": scores.character_error_rate(read_by_float, read),
        "probability_sqnr_db": scores.sqnr(expected, probabilities),
        "float_exact_truth": float(np.mean([line.text == b for line, b in zip(lines, read_by_float, strict=True)])),
    }


@functools.lru_cache(maxsize=2)
def _rec_reference(count: int, threads: int) -> tuple[np.ndarray, list[str], list[str]]:
    classes = decode.characters(real.path("ppocr-rec"))
    session = runtime.session(real.path("ppocr-rec"), threads=threads)
    arrays = [line.pixels for line in text_lines.lines("evaluation", count)]
    probabilities = np.concatenate(list(_outputs(session, arrays)))
    return probabilities, [decode.greedy(line, classes) for line in probabilities], classes


def ppocr_det(result: Source, *, count: int = 40, optimization: str = "all", threads: int = 2) -> dict[str, float]:
    """Text boxes found on `count` evaluation pages, matched with the float model's boxes at IoU 0.5 or more."""
    expected, boxes = _det_reference(count, threads)
    session = runtime.session(result, optimization=optimization, threads=threads)
    maps = np.concatenate(list(_outputs(session, pages.pages("evaluation", count))))
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


@functools.lru_cache(maxsize=2)
def _det_reference(count: int, threads: int) -> tuple[np.ndarray, list[np.ndarray]]:
    session = runtime.session(real.path("ppocr-det"), threads=threads)
    maps = np.concatenate(list(_outputs(session, pages.pages("evaluation", count))))
    return maps, [decode.boxes(page[0]) for page in maps]


EVALUATE: dict[str, Callable[..., dict[str, float]]] = {
    "vit-s": vit_s,
    "ppocr-rec": ppocr_rec,
    "ppocr-det": ppocr_det,
}


# Model -> one sample for timing.
SAMPLES: dict[str, Callable[[], np.ndarray]] = {
    "vit-s": lambda: photos.crops("evaluation", 1)[0],
    "ppocr-rec": lambda: text_lines.lines("evaluation", 1)[0].pixels,
    "ppocr-det": lambda: pages.pages("evaluation", 1)[0],
}


def turns(name: str, result: Source, *, threads: int = 2) -> dict[str, float]:
    """Median time of one sample for the float model and the result, in turns, and the median of their ratios."""
    sessions = [runtime.session(source, threads=threads) for source in (real.path(name), result)]
    feeds = tuple(_feed(session, SAMPLES[name]()) for session in sessions)
    timed = latency.latency(*sessions, feeds, threads=threads)
    return {
        "float_ms": 1e3 * timed.reference.median,
        "result_ms": 1e3 * timed.result.median,
        "latency_ratio": timed.ratio,
    }


def _proto(source: Source) -> onnx.ModelProto:
    if isinstance(source, ir.Model):
        return ir.to_proto(source)
    return onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)


def _with_output(model: onnx.ModelProto, find: Callable[[onnx.GraphProto], str]) -> bytes:
    """The model with one float value more among its outputs (the last), serialised."""
    model.graph.output.append(onnx.helper.make_tensor_value_info(find(model.graph), onnx.TensorProto.FLOAT, None))
    return model.SerializeToString()


def _feed(session: ort.InferenceSession, array: np.ndarray) -> dict[str, np.ndarray]:
    return {session.get_inputs()[0].name: array}


def _outputs(session: ort.InferenceSession, arrays: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    name = session.get_outputs()[0].name
    return (session.run([name], _feed(session, array))[0] for array in arrays)


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
