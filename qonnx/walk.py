"""A walk through a model, piece by piece: every node runs once a sample, and only live tensors are kept.

`reach(names)` runs what those tensors still need; weights ahead of the walk may be changed in between. Solving layers
in turn costs one run of the model this way, and memory for the tensors that cross the front: in a transformer the
residual stream and the layers' inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from qonnx.calibrate import Feeds, run
from qonnx.lean import lean_session
from qonnx.probes import reads, values


class Walk:
    """Where a model stands on each of `samples`. The model's main graph may change ahead of the walk, not behind it."""

    def __init__(
        self, model: ir.Model, samples: Iterable[Feeds], *, threads: int | None = None, libraries: Sequence[str] = ()
    ):
        self.model, self.threads, self.libraries = model, threads, tuple(libraries)
        self.live: list[dict[str, np.ndarray]] = [dict(feeds) for feeds in samples]
        self.done: set[ir.Node] = set()

    def reach(self, names: Iterable[str], wanted: Iterable[str] = ()) -> None:
        """Run until the tensors `names` are known; these and `wanted` can be read until the next call."""
        known, names = values(self.model.graph), tuple(dict.fromkeys((*names, *wanted)))
        piece = self._missing([known[name] for name in names])
        needed = {name for name in names if name in known}
        for node in self.model.graph:
            if node not in self.done and node not in piece:
                needed.update(value.name for value in reads(node) if value.name)
        if piece:
            made = {value.name: value for node in piece for value in node.outputs}
            outputs = [name for name in made if name in needed]
            self._run(piece, outputs)
            self.done |= piece
        for arrays in self.live:
            for name in [name for name in arrays if name not in needed]:
                del arrays[name]

    def arrays(self, name: str) -> list[np.ndarray]:
        """The tensor `name` on every sample; KeyError if it was not reached."""
        return [arrays[name] for arrays in self.live]

    def _missing(self, targets: list[ir.Value]) -> set[ir.Node]:
        """Nodes that have not run and that `targets` need."""
        found: set[ir.Node] = set()
        waiting = [value.producer() for value in targets]
        while waiting:
            node = waiting.pop()
            if node is None or node in found or node in self.done or node.graph is not self.model.graph:
                continue
            found.add(node)
            waiting += [value.producer() for value in reads(node)]
        return found

    def _run(self, piece: set[ir.Node], outputs: list[str]) -> None:
        """Run the nodes of `piece` on every sample and keep `outputs`."""
        inputs: dict[str, ir.Value] = {}
        for node in self.model.graph:
            if node in piece:
                for value in reads(node):
                    inside = value.producer() in piece
                    if not inside and value.name in self.live[0] and value.graph is self.model.graph:
                        inputs[value.name] = value
        graph = ir.convenience.extract(self.model.graph, list(inputs.values()), outputs)
        for value in graph.inputs:
            array = self.live[0][value.name]
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            # A scalar's is left open: with it, ONNX Runtime judges operators that it passed while it knew less.
            value.shape = ir.Shape([None] * array.ndim) if array.ndim else None
        part = ir.Model(graph, ir_version=self.model.ir_version, functions=list(self.model.functions.values()))
        # "basic": above it, ONNX Runtime quantizes float weights that stand between Q and DQ.
        session = lean_session(part, threads=self.threads, libraries=self.libraries, optimization="basic")
        for index, arrays in enumerate(self.live):
            found = run(session, outputs, {name: arrays[name] for name in inputs}, index)
            arrays.update(zip(outputs, found, strict=True))
