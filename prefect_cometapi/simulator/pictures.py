"""Real pictures for simulated predictions: a small landscape, and the prompt to read on it.

Pillow's built-in font is made for ASCII. For any other prompt the first system font of `_FONTS`
that can be found is taken; what the font does not have shows as a box.
"""

import colorsys
import io
import itertools
import math
import random
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

try:
    from PIL import Image, ImageDraw, ImageFont, ImageOps
except ModuleNotFoundError as error:
    text = 'The simulator draws pictures with Pillow: pip install "prefect-cometapi[images]"'
    raise ModuleNotFoundError(text, name="PIL") from error

LONG_SIDE = 768
#: Shapes are drawn this much larger and reduced: Pillow's shapes have no soft edges.
_FINE = 2
_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "msgothic.ttc",
    "DejaVuSans.ttf",
)
_MAX_LINES = 5

#: High sky, low sky, sun and land.
_PALETTES = (
    "5b7db1 f7c59f fff1c9 26324d",
    "2b2d5b e9806e ffd9a0 1d1b38",
    "0b1533 3c5a86 f4f1de 0a1022",
    "3a8f93 d8f0d2 fffbe0 173f3f",
    "e07a5f f9dcc4 fff7ea 4a2c40",
    "7768ae f2c6de fff0f5 2f2752",
    "d98e4a fbe3b0 fffaf0 5a2a27",
    "6d9dc5 e8f1f8 ffffff 274060",
    "0f2f3f 5fb49c e8ffe0 0a1c24",
    "b5546d fcd5c0 fff3da 3a1d34",
)

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Palette(NamedTuple):
    """The colours of a landscape."""

    high: Colour
    low: Colour
    sun: Colour
    land: Colour


@dataclass(frozen=True, slots=True)
class Picture:
    """All that decides how a picture looks: equal ones are equal to the byte."""

    prompt: str
    model: str
    seed: int
    index: int = 0
    count: int = 1
    width: int = LONG_SIDE
    height: int = LONG_SIDE
    format: str = "webp"
    quality: int = 80
    source: bytes | None = field(default=None, repr=False)


def size_of(aspect_ratio: str, source: bytes | None = None) -> tuple[int, int]:
    """Width and height for "16:9" and the like; for anything else those of the source picture."""
    try:
        across, down = map(int, aspect_ratio.split(":"))
    except ValueError:
        across, down = 1, 1
        if (image := _opened(source)) is not None:
            across, down = image.size
    scale = LONG_SIDE / max(across, down)
    return max(round(across * scale), 64), max(round(down * scale), 64)


@lru_cache(maxsize=256)
def draw(picture: Picture) -> bytes:
    """The file of a picture."""
    words = (picture.prompt, picture.model, picture.seed + picture.index)
    source = random.Random("|".join(map(str, words)))  # noqa: S311
    size = picture.width, picture.height
    palette = _palette(source)
    if (given := _opened(picture.source)) is not None:
        image = _edited(given, size, palette, source)
    else:
        image = _landscape(size, palette, source)
    if min(size) >= 128:
        _caption(image, picture)
    return _encoded(image, picture.format, picture.quality)


def _opened(data: bytes | None) -> Image.Image | None:
    try:
        return Image.open(io.BytesIO(data)) if data else None
    except OSError:
        return None


def _palette(source: random.Random) -> Palette:
    """One of the palettes, its hues turned a little."""
    turn = source.uniform(-0.05, 0.05)
    high, low, sun, land = (_turned(tone, turn) for tone in source.choice(_PALETTES).split())
    return Palette(high, low, sun, land)


def _turned(tone: str, turn: float) -> Colour:
    hue, saturation, value = colorsys.rgb_to_hsv(*(byte / 255 for byte in bytes.fromhex(tone)))
    red, green, blue = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _landscape(size: tuple[int, int], palette: Palette, source: random.Random) -> Image.Image:
    # A few pixels, enlarged smoothly, make a soft sky with a drift of colour in it.
    sky = Image.new("RGB", (3, 4))
    for row, column in itertools.product(range(4), range(3)):
        share = min(max(row / 2.4 + source.uniform(-0.16, 0.16), 0), 1)
        sky.putpixel((column, row), _mix(palette.high, palette.low, share))
    image = sky.resize(size, Image.Resampling.BICUBIC)
    at = size[0] * source.uniform(0.2, 0.8), size[1] * source.uniform(0.2, 0.38)
    radius = min(size) * source.uniform(0.06, 0.11)
    glow = round(radius * 6)
    far = Image.radial_gradient("L").resize((glow * 2, glow * 2))
    light = far.point([round(max(1 - v / 178, 0) ** 2 * 180) for v in range(256)])
    image.paste(palette.sun, (round(at[0]) - glow, round(at[1]) - glow), light)
    width, height = size[0] * _FINE, size[1] * _FINE
    image = image.resize((width, height), Image.Resampling.NEAREST)
    x, y, radius = (part * _FINE for part in (at[0], at[1], radius))
    pen, soft = ImageDraw.Draw(image), ImageDraw.Draw(image, "RGBA")
    if sum(palette.high) < 270:
        for _ in range(90):
            left, top, r = (
                width * source.random(),
                height * source.random() / 2,
                source.uniform(1, 3),
            )
            soft.ellipse((left, top, left + r * 2, top + r * 2), fill=(255, 255, 255, 150))
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=palette.sun)
    sea = height * source.uniform(0.56, 0.64) if source.random() < 0.45 else height
    layers = source.randint(2, 3) if sea < height else source.randint(4, 6)
    for layer in range(layers):
        depth = (layer + 1) / layers
        base = height * (0.42 + 0.12 * depth if sea < height else 0.4 + 0.36 * depth)
        tone = _mix(palette.low, palette.land, 0.3 + 0.7 * depth * depth)
        pen.polygon(_ridge(width, height, base, source), fill=tone)
    strips = 24
    for strip in range(strips if sea < height else 0):
        top, depth = sea + (height - sea) * strip / strips, strip / strips
        tone = _mix(_mix(palette.low, palette.high, depth), palette.land, 0.15 + 0.5 * depth)
        pen.rectangle((0, top, width, height), fill=tone)
        for _ in range(2):
            broad = radius * source.uniform(0.2, 0.7 + depth)
            middle, thin = x + radius * source.uniform(-0.6, 0.6), 3 + 5 * depth
            soft.ellipse(
                (middle - broad, top, middle + broad, top + thin), fill=(*palette.sun, 120)
            )
    return image.reduce(_FINE)


def _ridge(
    width: int, height: int, base: float, source: random.Random
) -> list[tuple[float, float]]:
    """The outline of a range of hills: four waves, each quicker and lower."""
    waves = [
        (
            height * 0.05 / (n + 1),
            math.tau * source.uniform(0.4, 1.1) * (n + 1),
            source.random() * 9,
        )
        for n in range(4)
    ]
    ridge = [
        (x, base + sum(a * math.sin(f * x / width + p) for a, f, p in waves))
        for x in range(0, width + 12, 12)
    ]
    return [(0, height), *ridge, (width + 12, height)]


def _edited(
    given: Image.Image, size: tuple[int, int], palette: Palette, source: random.Random
) -> Image.Image:
    """A new landscape, and on it the source picture as a card, toned by the same palette."""
    image = _landscape(size, palette, source)
    frame = round(min(size) * 0.02)
    card = ImageOps.contain(given.convert("RGB"), (size[0] * 6 // 10, size[1] * 6 // 10))
    middle = _mix(palette.high, palette.low, 0.5)
    toned = ImageOps.colorize(card.convert("L"), palette.land, palette.sun, mid=middle)
    card = ImageOps.expand(Image.blend(card, toned, 0.45), frame, "white")
    angle = source.choice((-1, 1)) * source.uniform(2, 5)
    card.putalpha(255)
    card = card.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    image.paste(card, ((size[0] - card.width) // 2, frame * 2), card)
    return image


def _font(text: str, size: int) -> Font:
    if not text.isascii():
        for name in _FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _wrapped(text: str, font: Font, width: float) -> list[str]:
    """Lines no wider than that; words that are too long, or have no spaces, are broken."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = ""
        for letter in word:
            if line and font.getlength(line + letter) > width:
                lines.append(line)
                line = ""
            line += letter
    return [*lines, line] if line else lines


def _caption(image: Image.Image, picture: Picture) -> None:
    """A panel at the foot: the prompt, and in small print what made it."""
    side = min(image.size)
    margin, text = round(side * 0.04), picture.prompt[:400] or "(no prompt)"
    width = image.width - 4 * margin
    for size in (round(side * share) for share in (0.045, 0.038, 0.031)):
        font = _font(text, size)
        lines = _wrapped(text, font, width)
        if len(lines) <= _MAX_LINES - 2:
            break
    if len(lines) > _MAX_LINES:
        last = lines[_MAX_LINES - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        lines = [*lines[: _MAX_LINES - 1], last.rstrip() + "…"]
    small = ImageFont.load_default(max(round(side * 0.024), 10))
    print_ = f"{picture.model}  ·  seed {picture.seed + picture.index}"
    if picture.count > 1:
        print_ += f"  ·  {picture.index + 1} of {picture.count}"
    step, foot = round(size * 1.35), round(side * 0.045)
    top = image.height - 3 * margin - len(lines) * step - foot
    box = (margin, top, image.width - margin, image.height - margin)
    pen = ImageDraw.Draw(image, "RGBA")
    pen.rounded_rectangle(box, radius=margin // 2, fill=(12, 14, 24, 200))
    for number, line in enumerate(lines):
        pen.text((2 * margin, top + margin + number * step), line, font=font, fill="white")
    pen.text(
        (2 * margin, image.height - 2 * margin),
        f"{print_}  ·  simulated",
        font=small,
        anchor="ls",
        fill=(255, 255, 255, 170),
    )


def _encoded(image: Image.Image, format_: str, quality: int) -> bytes:
    file = io.BytesIO()
    match format_:
        case "png":
            image.save(file, "PNG", compress_level=1)
        case "jpg":
            image.save(file, "JPEG", quality=min(quality, 95))
        case _:
            image.save(file, "WEBP", quality=quality, method=0)
    return file.getvalue()
