"""The command `qonnx`: finds the verb, runs it, and turns every failure into one sentence and an exit code.

Exit codes: 0 done; 1 a bound does not hold, a lint error, or nothing was quantized; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from qonnx import __version__
from qonnx.cli import VERBS
from qonnx.errors import QonnxError
from qonnx.options import nearest


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. `--debug` anywhere shows tracebacks."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        return _dispatch([word for word in words if word != "--debug"])
    except KeyboardInterrupt:
        return _fail("interrupted", 130, debug)
    except QonnxError as error:
        return _fail(str(error), error.exit_code, debug)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2, debug)


def overview() -> str:
    """What `qonnx --help` prints."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {sentence}" for verb, sentence in VERBS.items())
    return (
        f"qonnx {__version__}: turns a float ONNX model into a small, fast, proven one.\n\n"
        f"usage: qonnx VERB …\n\n{verbs}\n\n"
        "Start with\n"
        "  qonnx convert model.onnx                   8-bit weights, no data needed\n"
        "  qonnx convert model.onnx --data images/    8-bit weights and activations\n"
        "and see 'qonnx VERB --help' for the options of a verb.\n"
    )


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(), end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] in ("-V", "--version", "version"):
        print(f"qonnx {__version__}")
        return 0
    name = words[0]
    if name not in VERBS:
        if name.endswith(".onnx"):
            raise QonnxError(f"which verb for '{name}'? Try 'qonnx convert {name}' or 'qonnx inspect {name}'")
        raise QonnxError(f"unknown verb '{name}'; {nearest(name, VERBS)}")
    from qonnx.cli.parser import Parser  # what follows imports ONNX and ONNX Runtime: a second that --help can spare
    from qonnx.doctor import refuse_conflicts

    if name != "doctor":
        refuse_conflicts()
    verb = importlib.import_module(f"qonnx.cli.{name}")
    parser = Parser(name, VERBS[name], verb.EXAMPLE, verb.USAGE)
    verb.arguments(parser)
    return verb.run(parser.parse(words[1:]))


def _fail(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"qonnx: {' '.join(sentence.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
