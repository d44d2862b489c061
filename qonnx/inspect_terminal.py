"""An Inspection for the terminal: interface, weights by layer, what each target could take."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from qonnx.inspection import Inspection
from qonnx.wording import percent, short, size

LARGEST = 12


def render(found: Inspection, console: Console | None = None) -> None:
    """Print `found` on `console` (the standard output by default)."""
    (console or Console()).print(renderable(found))


def renderable(found: Inspection) -> RenderableType:
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    title = Text(found.name, style="bold").append(
        f"   {size(found.disk)}, {found.weights / 1e6:.2f} M weights at {found.bits_per_weight:.2f} bits, "
        f"{found.nodes} nodes\n",
        style="not bold",
    )
    title.append(f"opset {opsets}; IR {found.ir_version}; made by {found.producer}", style="dim not bold")
    parts: list[RenderableType] = [title, _ports(found), _operators(found), _layers(found), _outlooks(found)]
    for label, counts in (("control flow", found.control_flow), ("other domains", found.domains)):
        if counts:
            parts.append(Text(f"{label}: " + ", ".join(f"{name} ({count})" for name, count in counts.items())))
    if found.functions:
        parts.append(Text("functions: " + ", ".join(found.functions)))
    if found.quantized:
        parts.append(Text(f"{found.quantized} nodes are quantized already", style="yellow"))
    return Group(*parts)


def _ports(found: Inspection) -> Table:
    table = _table("", "type", "shape")
    for side, ports in (("input", found.inputs), ("output", found.outputs)):
        for port in ports:
            table.add_row(Text(side, style="dim"), port.name, port.type, port.shape)
    return table


def _operators(found: Inspection) -> Text:
    shown = list(found.operators.items())[:12]
    rest = sum(found.operators.values()) - sum(count for _, count in shown)
    words = ", ".join(f"{count} {name}" for name, count in shown)
    return Text(words + (f" and {rest} nodes of {len(found.operators) - 12} other types" if rest else ""))


def _layers(found: Inspection) -> Table:
    table = _table("operator", "weight", "type", "#stored", title="Largest layers")
    for layer in found.layers[:LARGEST]:
        table.add_row(short(layer.node, 52), layer.operator, layer.weight, layer.numbers, size(layer.bytes))
    return table


def _outlooks(found: Inspection) -> Table:
    table = _table("#nodes", "#weights", "left in float because", title="What each target could run on integers")
    for outlook in found.outlooks:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in outlook.reasons.items())
        nodes = f"{outlook.nodes} of {outlook.total}"
        table.add_row(f"{outlook.target}", nodes, percent(outlook.parameters), Text(reasons, style="dim"))
    return table


def _table(*heads: str, title: str = "") -> Table:
    """A plain table whose first column is for names; a head that begins with # is a column of numbers."""
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("")
    for head in heads:
        number = head.startswith("#")
        table.add_column(head.lstrip("#"), justify="right" if number else "left", no_wrap=number)
    return table
