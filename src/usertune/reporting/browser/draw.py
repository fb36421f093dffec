"""The picture of one sample: its screenshot with the target and the answers, and a legend."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

from usertune.reporting.browser.samples import Drawing, SampleView, in_pixels
from usertune.reporting.style import Style

# The marks are drawn larger and then reduced, because Pillow draws without smooth edges.
FINER = 3
# Longer side of a picture in pixels: of one without a screenshot, and the smallest of one with it.
BLANK, SMALLEST = 1000, 800
DARK, LIGHT, SOFT = "#111418", "#ffffff", "#5a616e"
DASHES = 48
# Width of a letter of the legend, in font sizes; most are narrower.
EM = 0.58
Text = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_sample(view: SampleView, screenshot: Image.Image | None, styles: Mapping[str, Style]) -> Image.Image:
    """Return the picture of a sample (RGB).

    Args:
        view: the sample, with the answers to draw.
        screenshot: its screenshot; None draws the marks on white.
        styles: colour and marker of each experiment.
    """
    canvas = _enlarged(screenshot) if screenshot is not None else _blank(view)
    drawing, unit = in_pixels(view, canvas.size), max(canvas.size) / 100
    layer = Image.new("RGBA", (canvas.width * FINER, canvas.height * FINER))
    pen = ImageDraw.Draw(layer)
    _target(pen, drawing, unit * FINER)
    for answer, point in zip(view.answers, drawing.points, strict=True):
        if point is not None:
            at = (point[0] * FINER, point[1] * FINER)
            _marker(pen, at, 1.25 * unit * FINER, styles[answer.experiment], LIGHT)
            _marker(pen, at, 0.95 * unit * FINER, styles[answer.experiment], styles[answer.experiment].colour)
    layer = layer.resize(canvas.size, Image.Resampling.LANCZOS)
    canvas.paste(layer, mask=layer.getchannel("A"))
    return _beside(canvas, _legend(view, styles, canvas.height))


def _enlarged(screenshot: Image.Image) -> Image.Image:
    """Return a screenshot that is large enough for marks and legend."""
    factor = SMALLEST / max(screenshot.size)
    if factor <= 1:
        return screenshot.convert("RGB")
    size = (max(1, round(screenshot.width * factor)), max(1, round(screenshot.height * factor)))
    return screenshot.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _blank(view: SampleView) -> Image.Image:
    width, height = (view.image["width"], view.image["height"]) if view.image else (1, 1)
    scale = BLANK / max(width, height)
    return Image.new("RGB", (max(1, round(width * scale)), max(1, round(height * scale))), LIGHT)


def _target(pen: ImageDraw.ImageDraw, drawing: Drawing, unit: float) -> None:
    """Draw the box of the element, the region in which a click counts, and the cross of the target."""
    if drawing.target is None:
        return
    x, y = (value * FINER for value in drawing.target)
    across, down = (value * FINER for value in drawing.radii)
    for colour, factor in ((LIGHT, 0.6), (DARK, 0.28)):
        width = max(1, round(factor * unit))
        if drawing.box is not None:
            left, top, wide, high = (value * FINER for value in drawing.box)
            pen.rectangle((left, top, left + wide, top + high), outline=colour, width=width)
        for start in range(DASHES):
            first = 360 * start / DASHES
            ends = (x - across, y - down, x + across, y + down)
            pen.arc(ends, first, first + 360 / DASHES * 0.56, fill=colour, width=width)
    near, far = 0.8 * unit, 2.4 * unit
    for colour, factor in ((LIGHT, 0.9), (DARK, 0.4)):
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            line = (x + near * dx, y + near * dy, x + far * dx, y + far * dy)
            pen.line(line, fill=colour, width=max(1, round(factor * unit)))


def _marker(pen: ImageDraw.ImageDraw, at: tuple[float, float], r: float, style: Style, colour: str) -> None:
    """Draw the marker of an experiment."""
    x, y = at
    if style.outline:
        pen.polygon([(x + r * dx, y + r * dy) for dx, dy in style.outline], fill=colour)
    else:
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _legend(view: SampleView, styles: Mapping[str, Style], height: int) -> Image.Image:
    """Return what is next to the screenshot: the sample, and each experiment with its marker and its outcome."""
    size = max(13, min(30, height // 55))
    title, plain = ImageFont.load_default(size * 1.15), ImageFont.load_default(size)
    width, gap = size * 22, size // 2
    canvas = Image.new("RGB", (width, max(height, size * 5 * (len(view.answers) + 2))), LIGHT)
    pen, y = ImageDraw.Draw(canvas), float(size)

    def write(text: str, font: Text, colour: str, left: float = size, lines: int = 3) -> None:
        nonlocal y
        for line in textwrap.wrap(text, int((width - left - size) / (size * EM)))[:lines]:
            pen.text((left, y), line, fill=colour, font=font)
            y += size * 1.35

    write(f"User {view.user}, sample {view.sample}", title, DARK)
    if view.about.get("app"):
        write(f"app {view.about['app']}", plain, SOFT)
    for answer in view.answers:
        y += gap
        _marker(
            pen,
            (size * 1.5, y + size * 0.62),
            size * 0.5,
            styles[answer.experiment],
            styles[answer.experiment].colour,
        )
        write(answer.experiment, title, DARK, size * 2.6)
        write(answer.outcome, plain, SOFT, size * 2.6)
    return canvas.crop((0, 0, width, max(height, round(y) + size)))


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), LIGHT)
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width, 0))
    return canvas
