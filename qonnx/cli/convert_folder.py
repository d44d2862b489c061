"""qonnx convert FOLDER: every model of a folder, and the files that belong to them."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

from qonnx.cli.ending import finish, show_plan
from qonnx.cli.progress import ticking
from qonnx.folders import Converted, convert_folder
from qonnx.settings import Settings


def run_folder(root: pathlib.Path, data: Any, settings: Settings) -> int:
    """Convert the folder `root` into the folder `settings.output`; the exit code."""
    with ticking(quiet=settings.quiet) as progress:
        rows = convert_folder(root, settings.output, data=data, settings=settings, progress=progress)
    codes = [_shown(row, settings) for row in rows]
    if not settings.quiet:
        print(f"{settings.output}: {', '.join(str(row.path.relative_to(settings.output)) for row in rows)}")
    return max(codes)


def _shown(row: Converted, settings: Settings) -> int:
    if row.conversion is None:
        print(f"qonnx: {row.model} stays in float: {row.refused}", file=sys.stderr)
        return 1
    if settings.dry_run:
        show_plan(row.conversion.report)
        return 0
    return finish(row.conversion.report, dataclasses.replace(settings, output=row.path))
