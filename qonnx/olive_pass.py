"""A pass for Olive, Microsoft's optimisation workflows (pip install olive-ai): `qonnx.convert` among their passes.

    from olive.workflows import run
    from qonnx.olive_pass import package_config
    run("flow.json", package_config=package_config())

with {"type": "QonnxConvert", "options": {"target": "ort-cpu", "min_sqnr": 30}, "data": "samples.npz"} in the flow. The
figures that a conversion measures become attributes of Olive's model, under "qonnx".
"""

from __future__ import annotations

import os
from typing import Any

from qonnx.conversion import convert
from qonnx.errors import QonnxError
from qonnx.wording import decibel

try:
    from olive.data.config import DataConfig
    from olive.model import ONNXModelHandler
    from olive.model.utils import resolve_onnx_path
    from olive.package_config import OlivePackageConfig
    from olive.passes import Pass
    from olive.passes.pass_config import PassConfigParam
except ImportError as error:
    raise QonnxError(f"Olive cannot be imported ({error}); install it with: pip install olive-ai") from error


class QonnxConvert(Pass):
    """Quantize an ONNX model with qonnx."""

    @classmethod
    def _default_config(cls, accelerator_spec) -> dict[str, PassConfigParam]:
        return {
            "options": PassConfigParam(type_=dict, default_value={}, description="fields of qonnx.settings.Settings"),
            "data": PassConfigParam(type_=str, default_value=None, description="samples: what --data takes"),
            "data_config": PassConfigParam(
                type_=DataConfig | dict, default_value=None, description="samples: one of Olive's data configurations"
            ),
        }

    def _run_for_config(self, model: ONNXModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        if config.data is not None and config.data_config is not None:
            raise QonnxError("QonnxConvert has data and data_config; leave one of them out")
        path = resolve_onnx_path(output_model_path, os.path.basename(model.model_path))
        reader = config.data if config.data_config is None else _reader(config.data_config, model)
        made = convert(model.model_path, data=reader, output=path, force=True, quiet=True, **config.options)
        return ONNXModelHandler(
            os.path.dirname(path),
            onnx_file_name=os.path.basename(path),
            model_attributes={**(model.model_attributes or {}), "qonnx": _figures(made.report)},
        )


def package_config() -> dict[str, Any]:
    """Olive's own configuration of passes with QonnxConvert among them: the argument package_config of its `run`."""
    plain = OlivePackageConfig.load_default_config().model_dump(mode="json")
    anything = {"supported_providers": ["*"], "supported_accelerators": ["*"], "supported_precisions": ["*"]}
    plain["passes"]["qonnxconvert"] = {"module_path": f"{__name__}.{QonnxConvert.__name__}", **anything}
    return plain


def _reader(given: DataConfig | dict, model: ONNXModelHandler) -> Any:
    """Olive's loader as a calibration reader of ONNX Runtime, which is data for qonnx."""
    config = DataConfig.model_validate(given)
    container = config.to_data_container()
    return container.create_calibration_dataloader(model_path=model.model_path, io_config=model.io_config)


def _figures(report: Any) -> dict[str, Any]:
    comparison = report.comparison
    worst = None if comparison is None else decibel(comparison.worst_output.figures.sqnr_db)
    return {"recipe": report.recipe["title"], "target": report.target, "sqnr": worst, "broken": list(report.broken)}
