"""The cost of a stream against how many there are, as a picture in SVG."""

from __future__ import annotations

from collections.abc import Mapping
from math import log

from serstream.bench.measuring import Figure

PREFIX = "stream_ms_per_audio_s_"
WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 40, 50
LEAST_APART = 40
FONT = 'font-family="sans-serif" font-size="12"'
STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


def costs(figures: Mapping[str, Figure]) -> dict[int, Figure]:
    """Return what a stream costs by how many there are."""
    found = {int(name.removeprefix(PREFIX)): f for name, f in figures.items() if name.startswith(PREFIX)}
    return dict(sorted(found.items()))


def picture(points: Mapping[int, Figure], machine: str) -> str:
    """Return the picture: a point for each number, and between which two quartiles half of its turns lie."""
    most = max(f.spread[1] for f in points.values())
    step = next((s for s in STEPS if most / s <= 6), STEPS[-1])
    top = step * (int(most / step) + 1)
    last = max(points)

    def x(n: int) -> float:
        return LEFT + 20 + (WIDTH - LEFT - RIGHT - 40) * log(n) / log(max(last, 2))

    def y(ms: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * ms / top

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20">CPU for a second of a real-time stream, in ms, on {machine}</text>',
    ]
    for k in range(round(top / step) + 1):
        at = y(k * step)
        lines.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{k * step:g}</text>')
    for n, f in points.items():
        low, high = f.spread
        lines.append(f'<path d="M{x(n):.1f} {y(low):.1f}V{y(high):.1f}" stroke="#06c" stroke-width="2"/>')
        lines.append(f'<circle cx="{x(n):.1f}" cy="{y(f.median):.1f}" r="4" fill="#06c"/>')
        if n == last or x(last) - x(n) > LEAST_APART:
            lines.append(f'<text x="{x(n):.1f}" y="{y(high) - 8:.1f}" text-anchor="middle">{f.median:g}</text>')
            lines.append(f'<text x="{x(n):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{n}</text>')
    way = " ".join(f"{x(n):.1f},{y(f.median):.1f}" for n, f in points.items())
    lines.append(f'<polyline points="{way}" fill="none" stroke="#06c"/>')
    lines.append(f'<text x="{WIDTH / 2:g}" y="{HEIGHT - 10}" text-anchor="middle">streams in the daemon</text>')
    return "\n".join([*lines, "</svg>\n"])
