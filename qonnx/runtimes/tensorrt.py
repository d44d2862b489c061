"""TensorRT through Polygraphy, where it is installed: a strongly typed engine, as explicit quantization needs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qonnx.runtimes.exchange import Job


def open_model(job: Job) -> tuple[Callable, Callable[[], str], str]:
    import tensorrt
    from polygraphy.backend.trt import EngineFromNetwork, NetworkFromOnnxPath, TrtRunner

    engine = EngineFromNetwork(NetworkFromOnnxPath(str(job.folder / job.model), strongly_typed=True))()
    runner = TrtRunner(engine)
    runner.activate()

    def run(sample) -> dict:
        found = runner.infer(dict(sample))
        return {name: np.asarray(found[name]) for name in job.outputs}

    def fused() -> str:
        inspector = engine.create_engine_inspector()
        layers = inspector.get_engine_information(tensorrt.LayerInformationFormat.ONELINE).splitlines()
        return f"{engine.num_layers} layers: {'; '.join(layers)[:200]}"

    return run, fused, f"tensorrt {tensorrt.__version__}"
