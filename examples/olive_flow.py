"""A flow of Olive whose one pass is qonnx: python examples/olive_flow.py model.onnx samples.npz output/"""

import sys

from olive.workflows import run

from qonnx.olive_pass import package_config


def main(model: str, samples: str, output: str) -> None:
    flow = {
        "input_model": {"type": "ONNXModel", "model_path": model},
        "passes": {"quantize": {"type": "QonnxConvert", "options": {"target": "ort-cpu"}, "data": samples}},
        "output_dir": output,
        "cache_dir": f"{output}/cache",
    }
    run(flow, package_config=package_config())


if __name__ == "__main__":
    main(*sys.argv[1:])
