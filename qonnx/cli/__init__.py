"""The command line: one file a verb. Each has `USAGE`, `EXAMPLE`, `arguments(parser)` and `run(options) -> exit code`.

Verbs are imported when they are called, so that `qonnx --help` answers at once.
"""

# Every verb and what it does, in the order in which a user meets them.
VERBS: dict[str, str] = {
    "convert": "quantize a model, prove the result against the original, write it",
    "check": "compare any two models of equal interface on data",
    "pareto": "what a model loses at every file size: a table and a plot",
    "inspect": "what is in a model, what can be quantized, sizes by layer",
    "export": "write portable variants of a converted model: what other runtimes read",
    "demo": "write a web page that runs float and quantized side by side",
    "lint": "find what a runtime will not load or not run on integers",
    "recipes": "list the recipes, or show one",
    "targets": "list the runtimes, or show what one demands",
    "ops": "list the operators of domain ai.qonnx, or copy their native library",
    "doctor": "versions, providers, native library, conflicts",
}
