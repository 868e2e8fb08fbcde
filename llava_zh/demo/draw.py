"""Scenes drawn with Pillow. Every thing is a short list of flat shapes, so its colour and count can be checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .scenes import COLOURS, GROUNDS, RGB, SKIES, Backdrop, Board, Group, Scene

Points = list[tuple[float, float]]

# The horizon, and the bands that things stand in, as fractions of the picture's height.
HORIZON = 0.5
SKY_BAND = (0.04, 0.46)
GROUND_BAND = (0.54, 0.93)
SUPERSAMPLING = 3

# MAIN stands for the group's own colour. The other paints are neutral, so that none is taken for a group's colour.
MAIN = None
LIGHT = (246, 246, 240)
DARK = (64, 64, 70)
BROWN = (122, 86, 58)
OLIVE = (96, 112, 48)


@dataclass(frozen=True)
class Shape:
    """A flat polygon; coordinates run from 0 to 1 over the box of the thing."""

    paint: RGB | None
    points: Points


def _box(paint: RGB | None, left: float, top: float, right: float, bottom: float) -> Shape:
    return Shape(paint, [(left, top), (right, top), (right, bottom), (left, bottom)])


def _arc(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> Points:
    """Points on an ellipse from `start` to `stop` degrees, clockwise from three o'clock."""
    steps = 48
    angles = [math.radians(start + (stop - start) * step / steps) for step in range(steps + 1)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def _oval(paint: RGB | None, x: float, y: float, rx: float, ry: float) -> Shape:
    return Shape(paint, _arc(x, y, rx, ry))


def _burst(paint: RGB | None, spikes: int, inner: float) -> Shape:
    """A star that fills the box; the dents between its spikes reach `inner` of the way out."""
    points: Points = []
    for step in range(2 * spikes):
        radius, angle = (0.5, 0.5 * inner)[step % 2], math.pi * (step / spikes - 0.5)
        points.append((0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)))
    return Shape(paint, points)


# For each kind: width divided by height, and its shapes from back to front. The MAIN shapes touch each other.
SHAPES: dict[str, tuple[float, list[Shape]]] = {
    "sun": (1.0, [_burst(MAIN, 14, 0.72)]),
    "moon": (0.8, [Shape(MAIN, _arc(0.6, 0.5, 0.6, 0.5, 60, 300) + _arc(0.9, 0.5, 0.55, 0.42, 255, 105))]),
    "star": (1.0, [_burst(MAIN, 5, 0.42)]),
    "bird": (
        1.4,
        [
            Shape(DARK, [(0.92, 0.3), (1, 0.42), (0.92, 0.5)]),
            Shape(MAIN, [(0, 0.34), (0.34, 0.46), (0.3, 0.72), (0.06, 0.62)]),
            _oval(MAIN, 0.5, 0.6, 0.3, 0.24),
            _oval(MAIN, 0.8, 0.4, 0.15, 0.2),
            Shape(MAIN, [(0.32, 0.5), (0.3, 0), (0.62, 0.48)]),
            _oval(LIGHT, 0.84, 0.36, 0.03, 0.042),
        ],
    ),
    "kite": (
        0.62,
        [
            Shape(BROWN, [(0.47, 0.6), (0.66, 0.78), (0.4, 0.9), (0.52, 1), (0.32, 0.9), (0.58, 0.78)]),
            Shape(MAIN, [(0.5, 0), (1, 0.28), (0.5, 0.72), (0, 0.28)]),
            _oval(LIGHT, 0.5, 0.3, 0.12, 0.08),
        ],
    ),
    "balloon": (
        0.68,
        [
            Shape(DARK, [(0.26, 0.6), (0.36, 0.86), (0.64, 0.86), (0.74, 0.6)]),
            Shape(
                MAIN, [*_arc(0.5, 0.37, 0.5, 0.37, 180, 360), (0.93, 0.52), (0.66, 0.78), (0.34, 0.78), (0.07, 0.52)]
            ),
            _box(BROWN, 0.35, 0.85, 0.65, 1),
        ],
    ),
    "house": (
        1.05,
        [
            _box(MAIN, 0.1, 0.38, 0.9, 1),
            Shape(DARK, [(0, 0.42), (0.5, 0), (1, 0.42)]),
            _box(BROWN, 0.42, 0.66, 0.6, 1),
            _box(LIGHT, 0.18, 0.52, 0.34, 0.68),
            _box(LIGHT, 0.68, 0.52, 0.84, 0.68),
        ],
    ),
    "tree": (
        0.72,
        [
            _box(BROWN, 0.42, 0.55, 0.58, 1),
            _oval(MAIN, 0.5, 0.26, 0.36, 0.26),
            _oval(MAIN, 0.27, 0.48, 0.27, 0.22),
            _oval(MAIN, 0.73, 0.48, 0.27, 0.22),
        ],
    ),
    "tent": (1.3, [Shape(MAIN, [(0.5, 0), (1, 1), (0, 1)]), Shape(DARK, [(0.5, 0.36), (0.68, 1), (0.32, 1)])]),
    "car": (
        1.9,
        [
            Shape(MAIN, [(0.2, 0.42), (0.32, 0.05), (0.7, 0.05), (0.84, 0.42)]),
            Shape(MAIN, [(0.03, 0.4), (0.9, 0.4), (1, 0.55), (1, 0.8), (0, 0.8), (0, 0.5)]),
            Shape(LIGHT, [(0.29, 0.38), (0.36, 0.14), (0.48, 0.14), (0.48, 0.38)]),
            Shape(LIGHT, [(0.54, 0.38), (0.54, 0.14), (0.67, 0.14), (0.75, 0.38)]),
            _oval(DARK, 0.24, 0.8, 0.105, 0.2),
            _oval(DARK, 0.76, 0.8, 0.105, 0.2),
            _oval(LIGHT, 0.24, 0.8, 0.04, 0.076),
            _oval(LIGHT, 0.76, 0.8, 0.04, 0.076),
        ],
    ),
    "flower": (
        0.6,
        [
            _box(OLIVE, 0.46, 0.4, 0.54, 1),
            Shape(OLIVE, [(0.5, 0.92), (0.95, 0.68), (0.7, 0.9)]),
            *(
                _oval(MAIN, 0.5 + 0.27 * math.sin(turn), 0.3 - 0.16 * math.cos(turn), 0.23, 0.138)
                for turn in (0, 1.2566, 2.5133, 3.7699, 5.0265)
            ),
            _oval(LIGHT, 0.5, 0.3, 0.15, 0.09),
        ],
    ),
    "ball": (1.0, [_oval(MAIN, 0.5, 0.5, 0.5, 0.5), _oval(LIGHT, 0.36, 0.33, 0.09, 0.07)]),
    "parasol": (0.95, [_box(BROWN, 0.475, 0.3, 0.525, 1), Shape(MAIN, _arc(0.5, 0.48, 0.5, 0.48, 180, 360))]),
    "boat": (
        0.95,
        [
            _box(BROWN, 0.46, 0.02, 0.5, 0.74),
            Shape(LIGHT, [(0.53, 0.05), (0.92, 0.62), (0.53, 0.62)]),
            Shape(LIGHT, [(0.43, 0.16), (0.43, 0.62), (0.14, 0.62)]),
            Shape(MAIN, [(0, 0.7), (1, 0.7), (0.84, 1), (0.16, 1)]),
        ],
    ),
    "fish": (
        1.9,
        [
            Shape(MAIN, [(0.62, 0.5), (1, 0.08), (0.92, 0.5), (1, 0.92)]),
            _oval(MAIN, 0.4, 0.5, 0.4, 0.42),
            _oval(LIGHT, 0.17, 0.4, 0.055, 0.1),
            _oval(DARK, 0.16, 0.4, 0.025, 0.048),
        ],
    ),
    "duck": (
        1.2,
        [
            Shape(DARK, [(0.12, 0.22), (0, 0.33), (0.14, 0.38)]),
            Shape(MAIN, [(0.72, 0.6), (1, 0.4), (0.9, 0.86)]),
            _oval(MAIN, 0.55, 0.7, 0.38, 0.3),
            _oval(MAIN, 0.28, 0.28, 0.19, 0.26),
            _oval(DARK, 0.21, 0.22, 0.028, 0.034),
        ],
    ),
    "sign": (1.15, [_box(BROWN, 0.14, 0.5, 0.2, 1), _box(BROWN, 0.8, 0.5, 0.86, 1), _box(MAIN, 0, 0.06, 1, 0.66)]),
}


@dataclass(frozen=True)
class Sprite:
    """One thing as it stands in a picture: RGBA pixels and where their upper left corner goes."""

    image: Image.Image
    x: int
    y: int


def picture(scene: Scene) -> tuple[Image.Image, list[Sprite]]:
    """The RGB picture of a scene, and the things in it in the order they were drawn (their alpha is their mask)."""
    image = _backdrop(scene)
    sprites = [sprite for group in scene.groups for sprite in _group_sprites(scene, group)]
    if scene.board is not None:
        sprites.append(_sign_sprite(scene, scene.board))
    for sprite in sprites:
        image.paste(sprite.image, (sprite.x, sprite.y), sprite.image)
    return image, sprites


def jpeg(image: Image.Image) -> bytes:
    """The image as a baseline 3-channel JPEG, the kind SA-1B has."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The sign painter's font, which has the characters of the signs and printable ASCII, nothing else."""
    return ImageFont.truetype(BytesIO(resources.files(__package__).joinpath("glyphs.otf").read_bytes()), size)


def _backdrop(scene: Scene) -> Image.Image:
    image = Image.new("RGB", (scene.width, scene.height))
    horizon = round(HORIZON * scene.height)
    image.paste(_gradient(SKIES[scene.sky], scene.width, horizon))
    image.paste(_gradient(GROUNDS[scene.ground], scene.width, scene.height - horizon), (0, horizon))
    return image


def _gradient(backdrop: Backdrop, width: int, height: int) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((1, height)).resize((width, height))
    return ImageOps.colorize(ramp, backdrop.top, backdrop.bottom)


def _group_sprites(scene: Scene, group: Group) -> list[Sprite]:
    """The members of a group side by side in their third, in two rows if there are more than three."""
    rows = [group.count] if group.count <= 3 else [math.ceil(group.count / 2), group.count // 2]
    aspect, shapes = SHAPES[group.kind]
    band = SKY_BAND if group.in_sky else GROUND_BAND
    third = scene.width / 3
    cell_width = third * 0.94 / rows[0]
    cell_height = (band[1] - band[0]) * scene.height / len(rows)
    width = min(cell_width * 0.84, cell_height * 0.86 * aspect, scene.width * 0.2)
    size = (round(width), round(width / aspect))
    image = _painted(size, shapes, COLOURS[group.colour].rgb)
    sprites = []
    for row, members in enumerate(rows):
        # Things in the sky hang in the middle of their cell, the others stand on its floor.
        bottom = band[0] * scene.height + cell_height * (row + 0.95)
        if group.in_sky:
            bottom -= (cell_height * 0.9 - size[1]) / 2
        for member in range(members):
            middle = third * (_third(group.place) + 0.5) + cell_width * (member - (members - 1) / 2)
            sprites.append(Sprite(image, round(middle - size[0] / 2), round(bottom - size[1])))
    return sprites


def _sign_sprite(scene: Scene, board: Board) -> Sprite:
    """The signboard, its text as large as fits."""
    aspect, shapes = SHAPES["sign"]
    third = scene.width / 3
    width = min(third * 0.86, (GROUND_BAND[1] - HORIZON) * scene.height * aspect)
    size = (round(width), round(width / aspect))
    image = _painted(size, shapes, COLOURS[board.colour].rgb)
    text = board.sign.zh
    centre = (size[0] / 2, size[1] * 0.36)
    length = font(100).getlength(text)
    points = int(min(size[0] * 0.86 * 100 / length, size[1] * 0.46))
    ImageDraw.Draw(image).text(centre, text, fill=LIGHT, font=font(points), anchor="mm")
    x = third * (_third(board.place) + 0.5) - size[0] / 2
    return Sprite(image, round(x), round(GROUND_BAND[1] * scene.height - size[1]))


def _third(place: str) -> int:
    return ("left", "middle", "right").index(place)


def _painted(size: tuple[int, int], shapes: list[Shape], colour: RGB) -> Image.Image:
    """Shapes painted on a transparent RGBA image of `size`, with smooth edges."""
    width, height = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    image = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        paint = colour if shape.paint is None else shape.paint
        draw.polygon([(x * (width - 1), y * (height - 1)) for x, y in shape.points], fill=paint)
    return image.reduce(SUPERSAMPLING)
