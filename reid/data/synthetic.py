"""The embedded data set: drawn pedestrians, written as JPEG files in Market-1501's own layout and names.

Six fixed cameras watch people with lasting looks (`reid.data.pedestrian`). What makes re-identification hard is drawn
on purpose: casts of colour, viewpoints that hide the bag or the logo, occluders, boxes that cut heads and feet.
docs/embedded-data-set.md is the data card.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from reid.config import Range, Settings
from reid.data.pedestrian import Colour, Person, Pose, paint, pick, sample_person, shade

OVERSAMPLING = 2
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
# Streams of random numbers beside those of the identities 1, 2, ...: an image depends on its own stream alone.
DISTRACTORS, JUNK, CAMERAS_STREAM = 0, 10_000, 10_001


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(Settings):
    """How much is drawn, and from which seed.

    An identity is seen by `least_cameras` or more of the `cameras`, `least_images` to `most_images` times by each.
    Sizes are in pixels. Training identities are numbered from 1, test identities follow them.
    """

    seed: Annotated[int, Range(0)] = 0
    train_identities: Annotated[int, Range(1, 4999)] = 100
    test_identities: Annotated[int, Range(1, 4999)] = 100
    cameras: Annotated[int, Range(2, 6)] = 6
    least_cameras: Annotated[int, Range(2, 6)] = 3
    least_images: Annotated[int, Range(2, 90)] = 2
    most_images: Annotated[int, Range(2, 90)] = 3
    distractors: Annotated[int, Range(0, 30_000)] = 200
    junk: Annotated[int, Range(0, 30_000)] = 100
    height: Annotated[int, Range(16)] = 128
    width: Annotated[int, Range(8)] = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for least, most in (("least_cameras", "cameras"), ("least_images", "most_images")):
            low, high = getattr(self, least), getattr(self, most)
            if low > high:
                raise ValueError(f"SyntheticConfig.{least} is {low}, which is more than {most} ({high})")


def draw(folder: Path, config: SyntheticConfig, progress: Callable[[int, int], None] | None = None) -> None:
    """Draws the data set into `folder`, which must be missing or empty.

    The images are written beside it and renamed into place when complete, so a killed run leaves no folder that looks
    finished. The same configuration and versions of numpy and Pillow give the same files, byte for byte.

    Args:
        folder: becomes the root that holds bounding_box_train, query and bounding_box_test.
        config: what to draw.
        progress: called with (images written, images in total) after each image.

    Raises:
        FileExistsError: `folder` is a file, or holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder: name another, or remove it to draw the data set anew")
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    for name in FOLDERS:
        (partial / name).mkdir(parents=True)
    shots = list(_plan(config))
    sites = [_Site(camera, config, number) for number, camera in enumerate(CAMERAS[: config.cameras], start=1)]
    for done, shot in enumerate(shots, start=1):
        site = sites[shot.camera - 1]
        site.shoot(shot).save(partial / shot.path, quality=site.camera.quality)
        if progress is not None:
            progress(done, len(shots))
    if folder.exists():
        folder.rmdir()
    os.replace(partial, folder)


def _rng(config: SyntheticConfig, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([config.seed, stream, number]))


@dataclass(frozen=True, kw_only=True)
class _Shot:
    """One image to be: its file, the camera (from 1) and the random stream it is drawn from."""

    path: str
    camera: int
    stream: int
    number: int


def _plan(config: SyntheticConfig) -> Iterator[_Shot]:
    for identity in range(1, config.train_identities + config.test_identities + 1):
        yield from _appearances(config, identity)
    for stream, label, count in ((DISTRACTORS, "0000", config.distractors), (JUNK, "-1", config.junk)):
        for number in range(count):
            rng = _rng(config, stream, number)
            camera, box = int(rng.integers(config.cameras)) + 1, int(rng.integers(1, 8))
            name = f"{label}_c{camera}s1_{25 * number + 1:06d}_{box:02d}.jpg"
            yield _Shot(path=f"bounding_box_test/{name}", camera=camera, stream=stream, number=number)


def _appearances(config: SyntheticConfig, identity: int) -> Iterator[_Shot]:
    """An identity's images: in the test split, the first of each camera is a query (box 00, as in Market-1501)."""
    rng = _rng(config, identity, 1)
    seen = rng.permutation(config.cameras)[: rng.integers(config.least_cameras, config.cameras + 1)]
    for camera in sorted(int(index) + 1 for index in seen):
        sequence, frame = int(rng.integers(1, 7)), int(rng.integers(1, 90_000))
        for number in range(int(rng.integers(config.least_images, config.most_images + 1))):
            test = identity > config.train_identities
            folder = FOLDERS[0] if not test else FOLDERS[1] if number == 0 else FOLDERS[2]
            box = 0 if folder == "query" else int(rng.integers(1, 8))
            name = f"{identity:04d}_c{camera}s{sequence}_{frame + 25 * number:06d}_{box:02d}.jpg"
            yield _Shot(path=f"{folder}/{name}", camera=camera, stream=identity, number=100 * camera + number + 1)


@dataclass(frozen=True, kw_only=True)
class _Camera:
    """A place and a sensor. `yaw` (degrees) is how most people walk past: 0 towards the camera, 180 away from it.

    `gains` are the white balance (red, green, blue), `sharpness` is the resolution relative to the image's own, `noise`
    a standard deviation in grey levels, `light` the sun's side (-1 left, 1 right), `clutter` how often something is in
    the way.
    """

    backdrop: Callable[["_Canvas"], None]
    wall: Colour
    ground: Colour
    yaw: float
    tilt: float
    gains: tuple[float, float, float]
    gamma: float
    contrast: float
    saturation: float
    sharpness: float
    noise: float
    quality: int
    light: int
    clutter: float


@dataclass(frozen=True)
class _Canvas:
    """A scene being painted: `horizon` is where the ground begins, lengths are in pixels."""

    draw: ImageDraw.ImageDraw
    rng: np.random.Generator
    width: int
    height: int
    horizon: int
    wall: Colour

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """A rectangle; `left` and `right` in scene heights, `top` and `bottom` in parts of the wall's height."""
        h = self.horizon
        self.draw.rectangle((left * self.height, top * h, right * self.height, bottom * h), fill=colour)

    def blob(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def columns(self, step: float) -> Iterator[float]:
        """Places along the wall, `step` scene heights apart."""
        yield from (index * step for index in range(math.ceil(self.width / self.height / step)))


def _hedge(canvas: _Canvas) -> None:
    canvas.draw.rectangle((0, 0, canvas.width, canvas.horizon * 0.35), fill=(186, 196, 204))
    for _ in range(700):
        x, y = canvas.rng.uniform(0, canvas.width), canvas.horizon * canvas.rng.uniform(0.35, 1.0)
        canvas.blob(x, y, canvas.height * 0.02, shade(canvas.wall, canvas.rng.uniform(0.6, 1.35)))


def _bricks(canvas: _Canvas) -> None:
    rows, long, gap = 14, canvas.height * 0.1, canvas.height * 0.004
    for row in range(rows):
        high, low = canvas.horizon * row / rows + gap, canvas.horizon * (row + 1) / rows - gap
        for brick in range(-1, int(canvas.width / long) + 1):
            x = (brick + 0.5 * (row % 2)) * long
            tint = shade(canvas.wall, canvas.rng.uniform(0.85, 1.12))
            canvas.draw.rectangle((x + gap, high, x + long - gap, low), fill=tint)


def _trees(canvas: _Canvas) -> None:
    canvas.draw.rectangle((0, 0, canvas.width, canvas.horizon), fill=(176, 190, 178))
    for x in canvas.columns(0.3):
        canvas.box(x + 0.12, 0.3, x + 0.16 + 0.03 * canvas.rng.random(), 1.02, shade(canvas.wall, 0.7))
    for _ in range(260):
        x, y = canvas.rng.uniform(0, canvas.width), canvas.horizon * canvas.rng.uniform(0.0, 0.5)
        canvas.blob(x, y, canvas.height * 0.035, shade((84, 112, 64), canvas.rng.uniform(0.6, 1.3)))


def _shops(canvas: _Canvas) -> None:
    for x in canvas.columns(0.5):
        glass, sign = (66, 76, 84), shade((176, 84, 60), canvas.rng.uniform(0.5, 1.2))
        canvas.box(x + 0.03, 0.34, x + 0.36, 0.9, shade(glass, canvas.rng.uniform(0.7, 1.3)))
        canvas.box(x + 0.05, 0.38, x + 0.2, 0.86, shade(glass, 1.7))
        canvas.box(x + 0.39, 0.3, x + 0.48, 1.0, shade(glass, 0.6))
        canvas.box(x + 0.01, 0.1, x + 0.5, 0.27, sign)


def _cars(canvas: _Canvas) -> None:
    for x in canvas.columns(0.22):
        canvas.box(x + 0.04, 0.1, x + 0.14, 0.4, shade(canvas.wall, 0.6))
    for x in canvas.columns(0.72):
        paint_job = pick(canvas.rng, {(180, 182, 186): 2, (60, 64, 72): 2, (130, 40, 40): 1, (52, 72, 110): 1})
        canvas.box(x + 0.14, 0.52, x + 0.48, 0.72, (58, 66, 74))
        canvas.box(x + 0.04, 0.68, x + 0.6, 0.95, paint_job)
        for wheel in (0.14, 0.5):
            canvas.blob((x + wheel) * canvas.height, canvas.horizon * 0.96, canvas.height * 0.032, (30, 30, 32))


def _hall(canvas: _Canvas) -> None:
    for x in canvas.columns(0.36):
        canvas.box(x + 0.1, 0.0, x + 0.34, 0.92, shade((150, 168, 176), canvas.rng.uniform(0.8, 1.15)))
        canvas.box(x + 0.21, 0.0, x + 0.225, 0.92, shade(canvas.wall, 0.6))
        canvas.box(x, 0.0, x + 0.08, 1.0, shade(canvas.wall, 1.12))
        canvas.box(x + 0.06, 0.0, x + 0.08, 1.0, shade(canvas.wall, 0.75))


CAMERAS = (
    _Camera(backdrop=_hedge, wall=(70, 94, 58), ground=(158, 152, 144), yaw=0, tilt=0.12, gains=(1.03, 1.0, 0.95),
            gamma=0.97, contrast=1.03, saturation=1.0, sharpness=0.9, noise=1.5, quality=88, light=-1, clutter=0.1),
    _Camera(backdrop=_bricks, wall=(146, 92, 74), ground=(104, 104, 106), yaw=180, tilt=0.18, gains=(0.94, 1.0, 1.07),
            gamma=1.15, contrast=0.95, saturation=0.9, sharpness=0.7, noise=3.0, quality=70, light=1, clutter=0.15),
    _Camera(backdrop=_trees, wall=(96, 78, 60), ground=(104, 128, 76), yaw=90, tilt=0.1, gains=(0.98, 1.03, 0.94),
            gamma=0.92, contrast=1.08, saturation=1.07, sharpness=0.8, noise=2.0, quality=80, light=-1, clutter=0.18),
    _Camera(backdrop=_shops, wall=(170, 160, 146), ground=(184, 176, 164), yaw=-50, tilt=0.2, gains=(1.08, 0.99, 0.89),
            gamma=1.08, contrast=1.0, saturation=0.97, sharpness=0.6, noise=3.5, quality=65, light=1, clutter=0.13),
    _Camera(backdrop=_cars, wall=(150, 148, 146), ground=(92, 94, 98), yaw=-120, tilt=0.2, gains=(0.97, 0.98, 1.03),
            gamma=0.9, contrast=0.87, saturation=0.82, sharpness=0.5, noise=2.0, quality=60, light=1, clutter=0.15),
    _Camera(backdrop=_hall, wall=(176, 172, 166), ground=(168, 154, 134), yaw=140, tilt=0.25, gains=(1.0, 1.04, 0.98),
            gamma=1.25, contrast=1.1, saturation=0.92, sharpness=0.75, noise=4.5, quality=75, light=-1, clutter=0.1),
)  # fmt: skip


def _scene(camera: _Camera, rng: np.random.Generator, height: int) -> Image.Image:
    """What the camera sees without people, several boxes wide: wall above, ground in perspective below."""
    width, tall = 4 * height, round(1.5 * height)
    horizon = round(0.62 * height)
    image = Image.new("RGB", (width, tall), camera.wall)
    pencil = ImageDraw.Draw(image)
    camera.backdrop(_Canvas(pencil, rng, width, height, horizon, camera.wall))
    pencil.rectangle((0, horizon, width, tall), fill=camera.ground)
    dark = shade(camera.ground, 0.82)
    for line in range(-30, 31):
        pencil.line((width / 2 + line * height * 0.22, horizon, width / 2 + line * height * 0.5, tall), dark, 2)
    for step in range(8):
        y = horizon + (tall - horizon) * (step / 8) ** 1.6
        pencil.line((0, y, width, y), dark, 2)
    grain = rng.normal(0, 7, (tall // 2, width // 2, 1)) + rng.normal(0, 3, (tall // 2, width // 2, 3))
    rough = np.repeat(np.repeat(grain, 2, axis=0), 2, axis=1)
    pixels = np.asarray(image, np.float32)
    pixels[: rough.shape[0], : rough.shape[1]] += rough
    pixels = 138 + 0.62 * (pixels - 138)  # haze: people stand out from what is behind them
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where the person stands in the box, in box sizes: left to right, top to bottom, and how tall."""

    x: float
    feet: float
    height: float


class _Site:
    """One camera at its place: takes the pictures."""

    def __init__(self, camera: _Camera, config: SyntheticConfig, number: int) -> None:
        self.camera, self.config = camera, config
        self.width, self.height = config.width * OVERSAMPLING, config.height * OVERSAMPLING
        self.scene = _scene(camera, _rng(config, CAMERAS_STREAM, number), self.height)

    def shoot(self, shot: _Shot) -> Image.Image:
        """The image of a shot: an identity, or what a detector gets wrong."""
        rng = _rng(self.config, shot.stream, shot.number + 1_000_000)
        track = rng if shot.stream in (DISTRACTORS, JUNK) else _rng(self.config, shot.stream, shot.number // 100 * 100)
        turned = 180.0 if track.random() < 0.25 else 0.0
        yaw = math.radians(self.camera.yaw + turned + track.normal(0, 18) + rng.normal(0, 8))
        canvas = self._window(track.random(), rng)
        if shot.stream == DISTRACTORS and rng.random() < 0.5:
            return self._develop(canvas, rng)
        place = _badly(rng) if shot.stream == JUNK else _boxed(rng)
        pose = Pose(yaw=yaw, stride=rng.uniform(-0.45, 0.45), bend=rng.uniform(0.1, 0.6), tilt=self.camera.tilt)
        if rng.random() < 0.25:
            self._passer_by(canvas, rng, pose, place, behind=True)
        self._stand(canvas, self._look(shot, rng), pose, place, rng)
        if rng.random() < self.camera.clutter:
            self._obstruct(canvas, rng, pose, place)
        return self._develop(canvas, rng)

    def _look(self, shot: _Shot, rng: np.random.Generator) -> Person:
        if shot.stream == DISTRACTORS:
            return sample_person(rng)
        first = self.config.train_identities + 1
        whom = int(rng.integers(first, first + self.config.test_identities)) if shot.stream == JUNK else shot.stream
        return sample_person(_rng(self.config, whom, 0))

    def _window(self, along: float, rng: np.random.Generator) -> Image.Image:
        left = round((self.scene.width - self.width) * min(1.0, max(0.0, along + rng.normal(0, 0.01))))
        top = round((self.scene.height - self.height) * rng.uniform(0.2, 1.0))
        return self.scene.crop((left, top, left + self.width, top + self.height))

    def _stand(self, canvas: Image.Image, person: Person, pose: Pose, place: _Place, rng: np.random.Generator) -> None:
        """Paints the person with a shadow on the ground and soft light from the sun's side."""
        x, y, size = place.x * self.width, place.feet * self.height, place.height * self.height
        middle, wide, high, sun = x - self.camera.light * 0.12 * size, 0.2 * size, 0.03 * size, self.camera.light
        ground = ImageDraw.Draw(canvas, "RGBA")
        ground.ellipse((middle - wide, y - high, middle + wide, y + high), (0, 0, 0, 90))
        figure = Image.new("RGBA", canvas.size)
        paint(ImageDraw.Draw(figure), person, pose, feet=(x, y), height=size)
        mask = figure.getchannel("A")
        soft = ImageChops.offset(mask.filter(ImageFilter.BoxBlur(0.045 * size)), round(sun * 0.03 * size), 0)
        folds = Image.fromarray(rng.integers(210, 256, (12, 6), dtype=np.uint8))
        light = soft.point([150 + value * 105 // 255 for value in range(256)])
        light = ImageChops.multiply(light, folds.resize(canvas.size, Image.Resampling.BICUBIC))
        canvas.paste(ImageChops.multiply(figure.convert("RGB"), Image.merge("RGB", [light] * 3)), mask=mask)

    def _passer_by(
        self, canvas: Image.Image, rng: np.random.Generator, pose: Pose, beside: _Place, *, behind: bool
    ) -> None:
        """Another person, farther away (smaller, higher in the image) or nearer than the one at `beside`."""
        side = rng.choice((-1, 1))
        height = beside.height * (rng.uniform(0.7, 0.9) if behind else rng.uniform(1.0, 1.2))
        feet, x = beside.feet + (-0.08 if behind else 0.12), beside.x + side * rng.uniform(0.36, 0.6)
        walk = replace(pose, yaw=pose.yaw + math.pi * rng.integers(2), stride=rng.uniform(-0.4, 0.4))
        self._stand(canvas, sample_person(rng), walk, _Place(x=x, feet=feet, height=height), rng)

    def _obstruct(self, canvas: Image.Image, rng: np.random.Generator, pose: Pose, place: _Place) -> None:
        kind = pick(rng, {"pole": 2, "person": 2, "bush": 2, "bicycle": 2})
        pencil, (w, h) = ImageDraw.Draw(canvas), canvas.size
        x = w * rng.uniform(0.15, 0.85)
        if kind == "person":
            self._passer_by(canvas, rng, pose, place, behind=False)
        elif kind == "pole":
            pencil.rectangle((x - 0.05 * w, 0, x + 0.05 * w, h), fill=(96, 98, 100))
            pencil.rectangle((x - 0.05 * w, 0, x - 0.01 * w, h), fill=(128, 130, 132))
        elif kind == "bush":
            for _ in range(90):
                u, v, r = x + w * rng.normal(0, 0.22), h * (1.02 - abs(rng.normal(0, 0.17))), 0.05 * w
                pencil.ellipse((u - r, v - r, u + r, v + r), shade((74, 98, 58), rng.uniform(0.55, 1.35)))
        else:
            _bicycle(pencil, x, 0.97 * h, 0.12 * h)

    def _develop(self, canvas: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The sensor: resolution, white balance, exposure, contrast, saturation and noise."""
        camera, size = self.camera, (self.config.width, self.config.height)
        share = camera.sharpness * rng.uniform(0.75, 1.1)
        small = (max(4, round(size[0] * share)), max(8, round(size[1] * share)))
        image = canvas.resize(small, Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(image, np.float32) / 255
        grey = pixels.mean(axis=2, keepdims=True)
        pixels = grey + camera.saturation * (pixels - grey)
        gains = np.array(camera.gains) * rng.normal(1, 0.02, 3) * rng.uniform(0.9, 1.1)
        pixels = 0.45 + camera.contrast * (pixels * gains - 0.45)
        slope = np.linspace(1 - rng.uniform(0, 0.2), 1, size[1])[:, None, None]
        pixels = np.clip(pixels * slope, 0.0, 1.0) ** camera.gamma * 255
        pixels += rng.standard_normal((size[1], size[0], 3), dtype=np.float32) * camera.noise
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _boxed(rng: np.random.Generator) -> _Place:
    """A detector's box: mostly well around the person, at times off, or cutting the feet or the head."""
    if rng.random() < 0.85:
        height = rng.uniform(0.84, 0.96)
        return _Place(x=rng.normal(0.5, 0.04), feet=0.5 + height / 2 + rng.normal(0, 0.012), height=height)
    height = rng.uniform(0.72, 1.25)
    return _Place(x=rng.uniform(0.3, 0.7), feet=rng.uniform(0.42, 0.58) + height / 2, height=height)


def _badly(rng: np.random.Generator) -> _Place:
    """A box that shares little with the person."""
    height = rng.uniform(1.5, 2.6) if rng.random() < 0.7 else rng.uniform(0.35, 0.55)
    return _Place(x=rng.uniform(-0.1, 1.1), feet=rng.uniform(0.2, 0.8) + height * rng.uniform(0.1, 0.9), height=height)


def _bicycle(pencil: ImageDraw.ImageDraw, x: float, ground: float, radius: float) -> None:
    dark, frame, y, thick = (34, 34, 36), (140, 44, 44), ground - radius, max(1, round(0.13 * radius))
    back, front, post, seat = x - 1.15 * radius, x + 1.15 * radius, x - 0.3 * radius, ground - 2.3 * radius
    for hub in (back, front):
        pencil.ellipse((hub - radius, y - radius, hub + radius, y + radius), outline=dark, width=thick)
    bars = front - 0.3 * radius
    pencil.line((back, y, post, seat, x, y, bars, seat, front, y), frame, thick)
    pencil.line((back, y, x, y, post, seat, bars, seat - 0.2 * radius), frame, thick)
    pencil.line((x - 0.6 * radius, seat, x, seat), dark, thick + 1)
