"""ONNX Runtime's calibration readers work as they are: whatever has get_next() is data for qonnx.

python examples/calibration_reader.py model.onnx images.npz model.quant.onnx
"""

import sys

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader

import qonnx


class ImageReader(CalibrationDataReader):
    """A reader in the style of ONNX Runtime's own quantization examples: an iterator that rewinds."""

    def __init__(self, images: np.ndarray, model_path: str):
        session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
        self.input_name = session.get_inputs()[0].name
        self.images = images
        self.enum_data = None

    def get_next(self):
        if self.enum_data is None:
            self.enum_data = iter([{self.input_name: image[None]} for image in self.images])
        return next(self.enum_data, None)

    def rewind(self):
        self.enum_data = None


def main(model: str, samples: str, output: str) -> None:
    images = next(iter(np.load(samples).values()))
    conversion = qonnx.convert(model, data=ImageReader(images, model), output=output, quiet=True)
    worst = conversion.report.comparison.worst_output
    print(f"{output}: SQNR {worst.figures.sqnr_db:.1f} dB")


if __name__ == "__main__":
    main(*sys.argv[1:])
