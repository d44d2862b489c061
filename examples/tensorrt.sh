#!/usr/bin/env bash
# A TensorRT engine with explicit quantization, built and judged by Polygraphy. Needs an NVIDIA GPU and the package tensorrt.
#
#     examples/tensorrt.sh model.onnx calibration.npz test.json
#
# test.json: inputs as Polygraphy saves them (polygraphy run … --save-inputs test.json).
set -euo pipefail
float=$1 calibration=$2 inputs=$3
quantized=${float%.onnx}.trt.onnx

qonnx convert "$float" --data "$calibration" --target tensorrt -o "$quantized" --force
qonnx lint "$quantized" --target tensorrt
qonnx export "$quantized" --variant inlined -o . --force

# Strongly typed: the types of the file hold, no precision flag may overrule Q/DQ.
polygraphy run "$float" --onnxrt --load-inputs "$inputs" --save-outputs reference.json
polygraphy run "$(basename "${quantized%.onnx}").inlined.onnx" --trt --strongly-typed --save-engine model.engine \
  --load-inputs "$inputs" --load-outputs reference.json --compare cosine_similarity --cosine-similarity-threshold 0.99
