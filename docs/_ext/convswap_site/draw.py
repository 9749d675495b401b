"""A data flow as an SVG picture."""

from __future__ import annotations

from html import escape

from .flow import Box
from .layout import Cell, place

WIDTH, GAP, LINE, PADDING, STEP = 190, 18, 15, 7, 30
LETTERS = 31
"""Letters that fit into a line of a box."""
_STYLE = """
.paper { fill: #ffffff } .box { fill: #f3f5f8; stroke: #8b93a1 } .module { fill: #e6f1fa; stroke: #0072b2 }
.end { fill: #1a1c20; stroke: none } .edge { fill: none; stroke: #5c6169; stroke-width: 1.3 }
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1a1c20;
  text-anchor: middle } .title { font-weight: 600 } .note { fill: #3e434b; font-size: 11px }
.parameters { fill: #9a3f00; font-size: 11px; font-style: italic } .end-title { fill: #ffffff; font-weight: 600 }
.shape { fill: #5c6169; font-size: 10.5px }
"""


def lines_of(box: Box) -> list[tuple[str, str]]:
    """What stands in a box, line by line, each with its class of text."""
    if box.title in ("input", "output") and not box.module:
        return [("end-title", f"{box.title} {_shape(box.shape)}")]
    lines = [("title", line) for line in wrapped(box.title.split(" → "), " → ", LETTERS - 7)]
    if box.note:
        lines.append(("note", cut(box.note)))
    if box.parameters:
        lines += [("parameters", line) for line in wrapped(parameter_names(box.parameters), ", ", LETTERS)]
    if box.shape:
        lines.append(("shape", _shape(box.shape)))
    return lines


def parameter_names(names: tuple[str, ...], most: int = 3) -> list[str]:
    """The names, or, where these are many, the modules they lie in with their number."""
    if len(names) <= most:
        return list(names)
    heads = [name.partition(".")[0] for name in names]
    counted = {head: heads.count(head) for head in heads}
    return [head if count == 1 else f"{head}: {count} tensors" for head, count in counted.items()]


def wrapped(words: list[str], joint: str, width: int) -> list[str]:
    """Words joined into lines of at most `width` letters; a longer word is cut."""
    lines: list[str] = []
    for word in (cut(word, width) for word in words):
        if lines and len(lines[-1]) + len(joint) + len(word) <= width:
            lines[-1] += joint + word
        else:
            lines = [*lines[:-1], lines[-1] + joint.rstrip(), word] if lines else [word]
    return lines


def cut(text: str, width: int = LETTERS) -> str:
    """A text that fits; of a longer one the beginning."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def svg(boxes: list[Box], label: str) -> str:
    """The picture, `label` being what it says to those who cannot see it."""
    number = {id(box): index for index, box in enumerate(boxes)}
    rows = place([[number[id(previous)] for previous in box.after] for box in boxes])
    texts = [lines_of(box) for box in boxes]
    high = [2 * PADDING + LINE * len(text) for text in texts]
    heights = [max(high[c.index] for c in row if c.index is not None) for row in rows]
    tops = [GAP / 2 + sum(heights[:row]) + STEP * row for row in range(len(rows))]
    left, right = _extent(rows)
    width, height = right - left, tops[-1] + heights[-1] + GAP / 2

    def middle(cell: Cell) -> float:
        return cell.x * (WIDTH + GAP) - left

    def top(cell: Cell) -> float:
        own = heights[cell.row] if cell.index is None else high[cell.index]
        return tops[cell.row] + (heights[cell.row] - own) / 2

    def bottom(cell: Cell) -> float:
        return 2 * tops[cell.row] + heights[cell.row] - top(cell)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img">',
        f"<title>{escape(label)}</title><style>{_STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#5c6169"/></marker></defs>',
        f'<rect class="paper" width="{width:g}" height="{height:g}" rx="6"/>',
    ]
    for cell in (cell for row in rows for cell in row):
        if cell.index is None:
            parts.append(f'<path class="edge" d="M{middle(cell):g},{top(cell):g} V{bottom(cell):g}"/>')
        for end in cell.below:
            arrow = ' marker-end="url(#arrow)"' if end.index is not None else ""
            parts.append(_edge(middle(cell), bottom(cell), middle(end), top(end), arrow))
    for cell in (cell for row in rows for cell in row):
        if cell.index is not None:
            parts += _box(boxes[cell.index], texts[cell.index], middle(cell), top(cell), high[cell.index])
    return "\n".join([*parts, "</svg>", ""])


def _extent(rows: list[list[Cell]]) -> tuple[float, float]:
    """Left and right edge of the picture."""
    half = {True: (WIDTH + GAP) / 2, False: GAP / 2}
    sides = [(cell.x * (WIDTH + GAP), half[cell.index is not None]) for row in rows for cell in row]
    return min(x - h for x, h in sides), max(x + h for x, h in sides)


def _edge(x0: float, y0: float, x1: float, y1: float, arrow: str) -> str:
    bend = (y1 - y0) / 2
    return f'<path class="edge" d="M{x0:g},{y0:g} C{x0:g},{y0 + bend:g} {x1:g},{y1 - bend:g} {x1:g},{y1:g}"{arrow}/>'


def _box(box: Box, lines: list[tuple[str, str]], x: float, y: float, height: float) -> list[str]:
    kind = "end" if lines[0][0] == "end-title" else "module" if box.module else "box"
    radius = height / 2 if kind == "end" else 5
    parts = [
        f'<rect class="{kind}" x="{x - WIDTH / 2:g}" y="{y:g}" width="{WIDTH}" height="{height:g}" rx="{radius:g}"/>'
    ]
    for number, (style, line) in enumerate(lines):
        base = y + PADDING + LINE * (number + 1) - 4
        parts.append(f'<text class="{style}" x="{x:g}" y="{base:g}">{escape(line)}</text>')
    return parts
