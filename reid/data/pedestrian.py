"""Draws one pedestrian: a lasting look, a momentary pose, painted far to near on a Pillow image.

The body is a handful of tapered limbs and round trunks in three dimensions, so that a viewpoint is one angle and what
it hides (a face, a logo, a backpack) follows from geometry. Lengths are in body heights: the ground is 0, the crown 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np
from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float, float]  # lateral (the person's left is positive), up, forward
Level = tuple[float, float, float, float]  # of a trunk: up, half width, half thickness, forward
_T = TypeVar("_T")

SKINS: dict[Colour, float] = {
    (232, 196, 168): 3, (214, 172, 140): 4, (188, 142, 108): 3, (142, 98, 70): 2, (92, 62, 46): 1,
}  # fmt: skip
HAIRS: dict[Colour, float] = {
    (28, 24, 22): 6, (58, 42, 32): 4, (104, 76, 50): 2, (176, 146, 96): 1, (150, 148, 146): 1, (124, 60, 40): 0.5,
}  # fmt: skip
# Muted, and few: with weights like these many people share the colours of both garments.
TOPS: dict[Colour, float] = {
    (34, 34, 38): 6, (72, 74, 78): 4, (148, 150, 152): 3, (224, 222, 216): 5, (38, 46, 80): 4, (72, 100, 150): 3,
    (150, 174, 202): 2, (154, 46, 48): 3, (98, 36, 50): 2, (90, 94, 60): 2, (44, 84, 62): 2, (190, 170, 136): 2,
    (106, 78, 56): 2, (204, 172, 76): 1.5, (206, 146, 152): 1.5, (104, 76, 124): 1,
}  # fmt: skip
BOTTOMS: dict[Colour, float] = {
    (32, 32, 36): 6, (66, 68, 72): 3, (58, 76, 112): 6, (110, 134, 166): 3, (152, 132, 100): 3, (40, 46, 74): 3,
    (186, 184, 178): 1.5, (86, 90, 62): 1.5, (112, 62, 56): 0.7,
}  # fmt: skip
SHOES: dict[Colour, float] = {
    (30, 28, 28): 5, (222, 220, 216): 3, (100, 70, 48): 2, (130, 132, 136): 2, (160, 50, 48): 0.7, (56, 70, 110): 0.7,
}  # fmt: skip
BAGS: dict[Colour, float] = {
    (34, 34, 38): 4, (92, 64, 44): 3, (44, 54, 90): 2, (170, 50, 46): 2, (196, 178, 140): 2, (70, 96, 72): 1,
    (214, 160, 60): 1,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Person:
    """What stays with an identity in every camera. `side` (-1 or 1) is the shoulder or hand that carries the bag."""

    girth: float
    shoulders: float
    hips: float
    legs: float
    skin: Colour
    hair: Colour
    hair_style: Literal["short", "bald", "bob", "long", "tail", "bun"]
    top: Literal["tee", "shirt", "jacket", "coat"]
    top_colour: Colour
    second_colour: Colour
    pattern: Literal["plain", "stripes", "checks", "logo", "open", "yoke"]
    bottom: Literal["trousers", "shorts", "skirt"]
    bottom_colour: Colour
    shoes: Colour
    bag: Literal["none", "backpack", "shoulder", "hand"]
    bag_colour: Colour
    side: Literal[-1, 1]
    hat: Literal["none", "cap", "beanie"]
    hat_colour: Colour


@dataclass(frozen=True, kw_only=True)
class Pose:
    """One moment. `yaw` (radians): 0 faces the camera, pi shows the back, pi / 2 walks to the right.

    `stride` is the swing of the left leg in radians (the right leg and the arms follow), `bend` that of the elbows;
    `tilt` is how steeply the camera looks down (0: level).
    """

    yaw: float
    stride: float
    bend: float
    tilt: float


def pick(rng: np.random.Generator, weights: dict[_T, float]) -> _T:
    """One of the keys, with probability proportional to its weight."""
    shares = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(shares), p=shares / shares.sum()))]


def shade(colour: Colour, factor: float) -> Colour:
    """The colour darkened (`factor` below 1) or lightened."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


def _dye(rng: np.random.Generator, palette: dict[Colour, float]) -> Colour:
    red, green, blue = (int(c) for c in np.clip(np.array(pick(rng, palette)) + rng.integers(-7, 8, 3), 0, 255))
    return red, green, blue


def sample_person(rng: np.random.Generator) -> Person:
    """Draws a look: two of them may well wear the same colours, and then differ by build, hair, pattern or bag."""
    skirts = bool(rng.random() < 0.45)
    return Person(
        girth=float(rng.uniform(0.84, 1.22)),
        shoulders=float(rng.uniform(0.088, 0.104) if skirts else rng.uniform(0.1, 0.118)),
        hips=float(rng.uniform(0.08, 0.094) if skirts else rng.uniform(0.07, 0.084)),
        legs=float(rng.uniform(0.46, 0.52)),
        skin=_dye(rng, SKINS),
        hair=_dye(rng, HAIRS),
        hair_style=pick(
            rng, {"bob": 3, "long": 4, "tail": 2, "bun": 2, "short": 1} if skirts else {"short": 6, "bald": 1}
        ),
        top=pick(rng, {"tee": 4, "shirt": 4, "jacket": 3, "coat": 1.5}),
        top_colour=_dye(rng, TOPS),
        second_colour=_dye(rng, TOPS),
        pattern=pick(rng, {"plain": 5, "stripes": 2, "checks": 1.5, "logo": 2.5, "open": 2.5, "yoke": 1.5}),
        bottom=pick(rng, {"trousers": 5, "shorts": 1.5, "skirt": 2.5} if skirts else {"trousers": 5, "shorts": 2}),
        bottom_colour=_dye(rng, BOTTOMS),
        shoes=_dye(rng, SHOES),
        bag=pick(rng, {"none": 4, "backpack": 3, "shoulder": 2, "hand": 1.5}),
        bag_colour=_dye(rng, BAGS),
        side=pick(rng, {-1: 1, 1: 1}),
        hat=pick(rng, {"none": 8, "cap": 1.2, "beanie": 0.8}),
        hat_colour=_dye(rng, TOPS),
    )


def paint(draw: ImageDraw.ImageDraw, person: Person, pose: Pose, *, feet: tuple[float, float], height: float) -> None:
    """Paints the person, standing on the pixel `feet`, `height` pixels tall; what lies outside the image is cut."""
    sinks = height * person.legs * 0.94 * (1 - math.cos(pose.stride))  # legs apart: the body is lower
    stage = _Stage(pose, feet=(feet[0], feet[1] + sinks), height=height)
    _legs(stage, person, pose)
    _trunk(stage, person)
    _head(stage, person)
    _arms(stage, person, pose)
    _bag(stage, person)
    stage.paint(draw)


class _Stage:
    """Projects body coordinates to pixels, and collects shapes to paint them from the farthest to the nearest."""

    def __init__(self, pose: Pose, *, feet: tuple[float, float], height: float) -> None:
        self.cos, self.sin, self.tilt = math.cos(pose.yaw), math.sin(pose.yaw), pose.tilt
        self.feet, self.height = feet, height
        self.hands: dict[int, Point] = {}
        self._shapes: list[tuple[float, bool, list[tuple[float, float]], Colour]] = []

    def near(self, point: Point) -> float:
        """How much nearer to the camera than the body's axis."""
        return point[2] * self.cos - point[0] * self.sin

    def project(self, point: Point) -> tuple[float, float]:
        x = point[0] * self.cos + point[2] * self.sin
        y = point[1] - self.tilt * self.near(point)
        return self.feet[0] + self.height * x, self.feet[1] - self.height * y

    def polygon(self, corners: list[tuple[float, float]], colour: Colour, *, near: float) -> None:
        self._shapes.append((near, False, corners, colour))

    def oval(self, centre: Point, size: tuple[float, float], colour: Colour, *, near: float) -> None:
        (x, y), half_width, half_height = self.project(centre), size[0] * self.height, size[1] * self.height
        corners = [(x - half_width, y - half_height), (x + half_width, y + half_height)]
        self._shapes.append((near, True, corners, colour))

    def limb(self, joints: Sequence[Point], radii: Sequence[float], colour: Colour, *, near: float) -> None:
        """A tapered tube through the joints, with a darker rim that sets it off from what is behind."""
        for rim, tint in ((0.006, shade(colour, 0.68)), (0.0, colour)):
            for joint, radius in zip(joints, radii, strict=True):
                self.oval(joint, (radius + rim, radius + rim), tint, near=near)
            spots = [(*self.project(joint), (r + rim) * self.height) for joint, r in zip(joints, radii, strict=True)]
            for (x0, y0, r0), (x1, y1, r1) in pairwise(spots):
                length = math.hypot(x1 - x0, y1 - y0) or 1.0
                u, v = (y1 - y0) / length, (x0 - x1) / length
                quad = [(x0 + u * r0, y0 + v * r0), (x1 + u * r1, y1 + v * r1)]
                quad += [(x1 - u * r1, y1 - v * r1), (x0 - u * r0, y0 - v * r0)]
                self.polygon(quad, tint, near=near)

    def trunk(self, levels: Sequence[Level], colour: Colour, *, near: float) -> None:
        """A body of elliptical cross-sections, seen from the stage's angle, with the same darker rim."""
        self.slice(levels, shade(colour, 0.68), near=near, rim=0.006)
        self.slice(levels, colour, near=near)

    def slice(self, levels: Sequence[Level], colour: Colour, *, near: float, rim: float = 0.0) -> None:
        left, right = [], []
        for up, width, thickness, forward in levels:
            x, y = self.project((0.0, up, forward))
            half = self.height * (math.hypot(width * self.cos, thickness * self.sin) + rim)
            left.append((x - half, y))
            right.append((x + half, y))
        self.polygon(left + right[::-1], colour, near=near)

    def patch(self, levels: Sequence[Level], top: tuple[float, float, float], foot: tuple[float, float, float],
              colour: Colour, *, near: float) -> None:  # fmt: skip
        """The visible part of a patch on a trunk; its edges are (height, first angle, last angle), 0 is in front."""
        rows: list[list[tuple[float, float]]] = []
        for up, first, last in (top, foot):
            _, width, thickness, forward = _level_at(levels, up)
            angles = (first + (last - first) * step / 6 for step in range(7))
            ring = [(width * math.sin(angle), thickness * math.cos(angle)) for angle in angles]
            rows.append([self.project((x, up, z + forward)) for x, z in ring if self.near((x, up, z)) >= 0])
        if all(rows):
            self.polygon(rows[0] + rows[1][::-1], colour, near=near)

    def paint(self, draw: ImageDraw.ImageDraw) -> None:
        for _, is_oval, corners, colour in sorted(self._shapes, key=lambda shape: shape[0]):
            (draw.ellipse if is_oval else draw.polygon)(corners, fill=colour)


def _level_at(levels: Sequence[Level], up: float) -> Level:
    """The cross-section at a height, between the given ones (which descend)."""
    for (high, *above), (low, *below) in pairwise(levels):
        if up >= low:
            share = (high - up) / (high - low)
            width, thickness, forward = (a + share * (b - a) for a, b in zip(above, below, strict=True))
            return up, width, thickness, forward
    return levels[-1]


def _between(start: Point, end: Point, share: float) -> Point:
    x, up, forward = (a + share * (b - a) for a, b in zip(start, end, strict=True))
    return x, up, forward


def _legs(stage: _Stage, person: Person, pose: Pose) -> None:
    thigh, shin, girth = person.legs * 0.5, person.legs * 0.44, person.girth
    for side, swing in ((1, pose.stride), (-1, -pose.stride)):
        lateral = side * person.hips * 0.58
        trail = swing - 0.06 - max(0.0, -swing) * 0.9  # the knee of the leg behind is bent
        hip = (lateral, person.legs, 0.0)
        knee = (lateral, hip[1] - thigh * math.cos(swing), thigh * math.sin(swing))
        ankle = (lateral * 0.9, knee[1] - shin * math.cos(trail), knee[2] + shin * math.sin(trail))
        near = stage.near(knee) - 1
        toe = (ankle[0] * 1.25, ankle[1] - 0.02, ankle[2] + 0.075)
        stage.limb(
            [(ankle[0], ankle[1] - 0.012, ankle[2] - 0.012), toe], [0.021, 0.016], person.shoes, near=near - 0.001
        )
        if person.bottom == "trousers":
            stage.limb([hip, knee, ankle], [0.052 * girth, 0.041 * girth, 0.031], person.bottom_colour, near=near)
            continue
        stage.limb([hip, knee, ankle], [0.045 * girth, 0.032 * girth, 0.02], person.skin, near=near)
        if person.bottom == "shorts":
            above_knee: Point = (lateral, knee[1] + 0.035, knee[2] * 0.86)
            stage.limb([hip, above_knee], [0.053 * girth, 0.047 * girth], person.bottom_colour, near=near)


def _trunk(stage: _Stage, person: Person) -> None:
    girth, legs, shoulders, hips = person.girth, person.legs, person.shoulders, person.hips * person.girth
    waist = (shoulders * 0.62 + hips * 0.3) * (0.55 + 0.45 * girth)
    hem = {"tee": legs + 0.01, "shirt": legs - 0.005, "jacket": legs - 0.01, "coat": legs - 0.16}[person.top]
    if person.bottom == "skirt":
        skirt = [(legs + 0.12, waist, 0.06 * girth, 0.0), (legs - 0.02, hips * 1.08, 0.078 * girth, 0.0)]
        skirt += [(legs - 0.19, hips * 1.4, 0.115 * girth, 0.0)]
        stage.trunk(skirt, person.bottom_colour, near=0.0)
    else:
        seat = [(legs + 0.1, waist, 0.06 * girth, 0.0), (legs - 0.03, hips, 0.066 * girth, 0.0)]
        stage.trunk(seat, person.bottom_colour, near=0.0)
    levels = [(0.865, 0.03, 0.03, 0.0), (0.84, shoulders * 0.8, 0.048, 0.0), (0.8, shoulders, 0.064 * girth, 0.0)]
    levels += [(0.72, shoulders * 0.92, 0.072 * girth, 0.005), (legs + 0.12, waist, 0.066 * girth, 0.0)]
    levels += [(legs + 0.02, hips * 1.04, 0.07 * girth, 0.0)]
    if hem < legs + 0.01:
        levels += [(hem, hips * (1.25 if person.top == "coat" else 1.05), (legs - hem) * 0.2 + 0.072 * girth, 0.0)]
    stage.trunk(levels, person.top_colour, near=0.0)
    _pattern(stage, person, levels)
    if person.bag == "backpack":
        for side in (-1, 1):
            top, foot = (0.84, side * 0.45, side * 0.8), (0.64, side * 0.6, side * 0.95)
            stage.patch(levels, top, foot, person.bag_colour, near=0.0)
    if person.bag == "shoulder":
        _sling(stage, person, levels)


def _pattern(stage: _Stage, person: Person, levels: Sequence[Level]) -> None:
    second, hem, full = person.second_colour, levels[-1][0], math.pi
    if person.pattern in ("stripes", "checks"):
        for step in range(int((0.8 - hem) / 0.056) + 1):
            up = 0.8 - 0.056 * step
            rows = [_level_at(levels, up), _level_at(levels, max(hem, up - 0.024))]
            stage.slice(rows, second, near=0.0)
    if person.pattern == "checks":
        for angle in np.arange(-full, full, full / 5):
            stage.patch(levels, (0.8, angle, angle + 0.22), (hem, angle, angle + 0.22), shade(second, 0.8), near=0.0)
    elif person.pattern == "logo":
        stage.patch(levels, (0.76, -0.55, 0.55), (0.67, -0.55, 0.55), second, near=0.0)
    elif person.pattern == "open":
        stage.patch(levels, (0.84, -0.35, 0.35), (hem, -0.5, 0.5), second, near=0.0)
    elif person.pattern == "yoke":
        stage.slice([_level_at(levels, up) for up in (0.845, 0.8, 0.74)], second, near=0.0)


def _sling(stage: _Stage, person: Person, levels: Sequence[Level]) -> None:
    """The strap of a shoulder bag: over one shoulder, across chest and back, to the other hip."""
    for turn in (0.0, math.pi):
        side = -person.side if turn == 0.0 else person.side
        top, foot = turn + side * 1.0, turn - side * 1.1
        stage.patch(levels, (0.84, top - 0.2, top + 0.2), (0.56, foot - 0.2, foot + 0.2), person.bag_colour, near=0.0)


def _arms(stage: _Stage, person: Person, pose: Pose) -> None:
    radius = 0.027 * (0.5 + 0.5 * person.girth)
    for side, swing in ((1, -pose.stride * 0.8), (-1, pose.stride * 0.8)):
        lower = swing + pose.bend * (1.0 if swing > 0 else 0.6)
        shoulder = (side * (person.shoulders - 0.006), 0.806, 0.0)
        elbow = (shoulder[0] + side * 0.022, 0.806 - 0.16 * math.cos(swing), 0.16 * math.sin(swing))
        hand = (elbow[0] + side * 0.004, elbow[1] - 0.17 * math.cos(lower), elbow[2] + 0.17 * math.sin(lower))
        stage.hands[side] = hand
        near = stage.near((side * 0.12, 0.0, elbow[2])) + 0.01
        stage.oval(hand, (0.02, 0.026), person.skin, near=near)
        if person.top == "tee":
            stage.limb([shoulder, elbow, hand], [radius, radius * 0.85, 0.016], person.skin, near=near)
            radii = [radius * 1.15, radius * 1.12]
            stage.limb([shoulder, _between(shoulder, elbow, 0.7)], radii, person.top_colour, near=near)
        else:
            radii = [radius * 1.15, radius * 1.02, radius * 0.84]
            stage.limb([shoulder, elbow, _between(elbow, hand, 0.84)], radii, person.top_colour, near=near)


def _head(stage: _Stage, person: Person) -> None:
    hair = person.hair if person.hair_style != "bald" else shade(person.skin, 0.9)
    stage.limb([(0.0, 0.9, 0.005), (0.0, 0.85, 0.0)], [0.026, 0.03], shade(person.skin, 0.82), near=0.01)
    stage.oval((0.0, 0.938, 0.0), (0.049, 0.063), shade(hair, 0.7), near=0.02)
    stage.oval((0.0, 0.939, 0.0), (0.045, 0.059), hair, near=0.02)
    if stage.cos > -0.5:  # the face turns out of sight slowly: a cheek is seen from behind, too
        half = 0.022 + 0.019 * max(0.0, stage.cos)
        stage.oval((0.0, 0.921, 0.026), (half, 0.046), person.skin, near=0.03)
        for side in (-1, 1):
            if stage.cos + side * stage.sin > 0.45:
                stage.oval((side * 0.018, 0.93, 0.036), (0.006, 0.004), shade(person.skin, 0.35), near=0.04)
    _hair(stage, person)
    _hat(stage, person)


def _hair(stage: _Stage, person: Person) -> None:
    colour, behind = shade(person.hair, 0.92), -0.08 * stage.cos
    if person.hair_style == "long":
        levels = [(0.96, 0.04, 0.03, -0.02), (0.88, 0.056, 0.034, -0.03), (0.77, 0.052, 0.024, -0.06)]
        stage.trunk(levels, colour, near=behind)
    elif person.hair_style == "bob":
        stage.trunk([(0.96, 0.044, 0.034, -0.016), (0.865, 0.06, 0.038, -0.02)], colour, near=behind)
    elif person.hair_style == "tail":
        stage.limb([(0.0, 0.95, -0.05), (0.0, 0.83, -0.075)], [0.018, 0.013], colour, near=behind)
    elif person.hair_style == "bun":
        stage.oval((0.0, 0.99, -0.02), (0.024, 0.022), colour, near=0.05)


def _hat(stage: _Stage, person: Person) -> None:
    if person.hat == "none":
        return
    colour = person.hat_colour
    stage.trunk([(1.005, 0.02, 0.02, 0.0), (0.99, 0.042, 0.042, 0.0), (0.95, 0.052, 0.052, 0.0)], colour, near=0.06)
    if person.hat == "cap":
        brim = 0.06 if stage.cos > -0.3 else -0.06
        stage.limb(
            [(-0.02, 0.952, 0.04), (0.0, 0.948, 0.08), (0.02, 0.952, 0.04)], [0.012] * 3, shade(colour, 0.85), near=brim
        )


def _bag(stage: _Stage, person: Person) -> None:
    colour = person.bag_colour
    if person.bag == "backpack":
        levels = [
            (0.83, 0.06, 0.035, -0.1),
            (0.8, 0.082, 0.05, -0.115),
            (0.6, 0.09, 0.062, -0.125),
            (0.57, 0.07, 0.05, -0.11),
        ]
        stage.trunk(levels, colour, near=-0.2 * stage.cos)
        if stage.cos < -0.3:
            pocket = [(0.69, 0.06, 0.03, -0.16), (0.59, 0.062, 0.03, -0.16)]
            stage.trunk(pocket, shade(colour, 0.85), near=-0.2 * stage.cos)
    elif person.bag == "shoulder":
        _box(stage, (person.side * (person.hips * person.girth + 0.035), person.legs + 0.02, -0.01), colour)
    elif person.bag == "hand":
        x, up, forward = stage.hands[person.side]
        stage.limb(
            [(x, up, forward), (x, up - 0.06, forward)], [0.008, 0.008], colour, near=stage.near((x, up, forward))
        )
        _box(stage, (x, up - 0.11, forward), colour)


def _box(stage: _Stage, centre: Point, colour: Colour) -> None:
    """A bag hanging at the side: broad along the walk, thin across it."""
    x, up, forward = centre
    near = stage.near((x * 1.3, up, forward)) + 0.02
    half = 0.022 * abs(stage.cos) + 0.052 * abs(stage.sin)
    middle = x * stage.cos + forward * stage.sin
    for rim, tint in ((0.006, shade(colour, 0.65)), (0.0, colour)):
        wide, tall = half + rim, 0.048 + rim
        left, right = (stage.feet[0] + stage.height * (middle + sign * wide) for sign in (-1, 1))
        y = stage.project(centre)[1]
        high, low = y - tall * stage.height, y + tall * stage.height
        stage.polygon([(left, high), (right, high), (right, low), (left, low)], tint, near=near)
