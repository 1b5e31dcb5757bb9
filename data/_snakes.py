"""Pictures of snakes: dashed curves that wander, two of them long, the rest there to distract.

Our own generator of the pictures of Pathfinder (Linsley et al., arXiv 1805.08315, as the Long Range Arena set its
parameters). A picture is made so:

1. The label is drawn, and the gap between dashes where there is a choice.
2. Two target snakes of ``contour_length`` dashes each grow together, a dash each in turn. The first tail lies in the
   middle of the picture, the second one ``seed_distance`` from it. Where one cannot go on, both start anew.
3. Up to ``num_distractors`` short snakes are put where there is room; most do not fit on 32x32 pixels.
4. One disc marks the tail of a target, the other the head of the same target (label 1) or of the other (label 0).
5. The picture is the maximum of everything, scaled so that its brightest pixel is 255.

A dash goes from one gap to the next: its *pivot* is the middle of the gap behind it. Its head is one of the pixels on
a circle round the pivot, likelier the straighter ahead and the freer. What is taken is kept in an occupancy mask, in
which every dash is as much wider as half a gap. A snake never sees its own last dash there, and always the other's.

All random choices are whole numbers, and the loop (``_snakes_loop.py``) adds and compares bytes only, so picture i of
a seed is the same on any machine, in any order, by any number of threads. Orientations are few (whole degrees and the
directions of the circle's pixels), so every dash is drawn once, as a stamp, and the loop is over stamps.

Coordinates are (y, x), orientations go from x to y, and sums are rounded up as in the original.

Where it is not known how the original does it, its pictures decided: the first tail lies among 3x3 (47x47) pixels,
which is where they have it; a distractor keeps off whatever is occupied at all, and starts once on 32x32 and up to
seven times on 128x128 pixels, since then as many find room as in the original. On 32x32 pixels two targets are
complete ten times sooner than there, for a reason that was not found.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

VERSION = 1  # raise when the same parameters yield other pictures

_SCALE = 2  # dashes are drawn at twice the resolution and shrunk
UNIT = 20  # contrasts are multiples of 1 / 20
_SOLID = 76  # a dash takes the pixels where its mask is above 0.3


@dataclass(frozen=True)
class SnakeConfig:
    """What the pictures look like; the defaults are the Long Range Arena's for 32x32 pixels."""

    side: int = 32
    """Pixels along each side."""
    contour_length: int = 14
    """Dashes of a target: 6, 9 and 14 are the easy, the intermediate and the hard set."""
    num_distractors: int = 5
    """Distractors asked for."""
    margins: tuple[int, ...] = (1,)
    """Half the gap between dashes in pixels; one is drawn per picture."""
    dash_length: int = 2
    """Pixels."""
    dash_width: float = 0.5
    """Pixels."""
    seed_distance: int = 7
    """Pixels between the tails of the targets."""
    disc_radius: float = 1.5
    """Pixels."""
    continuity: float = 1.0
    """How strongly snakes go straight on."""
    target_contrast: float = 1.5
    """Brightness of targets; that of discs is 1."""
    distractor_contrast: float = 2.0
    """Brightness of distractors."""
    distractor_starts: int = 1
    """Places where a distractor is tried before it is left out."""

    @property
    def distractor_length(self) -> int:
        """Dashes of a distractor."""
        return self.contour_length // 3


def path_x(contour_length: int = 14, num_distractors: int = 17) -> SnakeConfig:
    """The Long Range Arena's parameters for 128x128 pixels."""
    return SnakeConfig(
        side=128,
        contour_length=contour_length,
        num_distractors=num_distractors,
        margins=(2, 3),
        dash_length=5,
        dash_width=1.5,
        seed_distance=20,
        disc_radius=3.0,
        continuity=1.8,
        target_contrast=0.9,
        distractor_contrast=0.9,
        distractor_starts=7,
    )


class Drawing(NamedTuple):
    """One picture and what is known of it."""

    pixels: Bytes  # [side, side]
    label: int  # 1: both discs are on one snake
    num_distractors: int  # those that found room
    num_restarts: int  # of the two targets
    origin: tuple[int, int]  # (y, x) of the disc on a tail
    terminal: tuple[int, int]  # and of the disc on a head

    @property
    def disc_distance(self) -> float:
        """Pixels between the discs."""
        return math.dist(self.origin, self.terminal)


class Tables(NamedTuple):
    """What can be worked out before; O orientations (360 degrees, then the candidates'), K candidates."""

    stamps: Bytes  # [O,S,S] a dash whose head is in the middle
    masks: Bytes  # [O,S,S] what it takes in the occupancy mask
    to_head: Ints  # [O,2] from tail to head
    to_pivot: Ints  # [O,2] from head to the pivot behind
    to_next: Ints  # [O,2] from pivot to pivot
    to_seed: Ints  # [360,2] from the first tail to the second
    candidates: Ints  # [K,2] from pivot to head
    weights: Ints  # [O,K] how well a candidate continues an orientation, in 1 / 65536
    nearby: Ints  # [J,2] pixels of a disc as wide as a gap
    footprints: Ints  # [360,F,2] from tail to the pixels that a dash takes; filled up with repetitions
    disc: Bytes  # [R,R]


def fingerprint(config: SnakeConfig, seed: int) -> str:
    """Digest of all that decides what the pictures are."""
    identity = json.dumps([VERSION, seed, asdict(config)], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


class Snakes:
    """Draws pictures by number.

    Args:
        config: what they look like.
        seed: another seed gives other pictures.
    """

    def __init__(self, config: SnakeConfig, seed: int = 0) -> None:
        self.config = config
        from data import _snakes_loop  # numba: seconds, and for nothing but making pictures

        self._loop = _snakes_loop
        self._key = bytes.fromhex(fingerprint(config, seed))
        self._tables = [make_tables(config, margin) for margin in config.margins]
        contrasts = [round(value * UNIT) for value in (config.target_contrast, config.distractor_contrast)]
        lengths = [config.contour_length, config.distractor_length, config.num_distractors, config.seed_distance]
        self._numbers = np.array([config.side, *lengths, *contrasts, config.distractor_starts], dtype=np.int64)

    def draw(self, number: int) -> Drawing:
        """Picture ``number``, a function of configuration, seed and number."""
        digest = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8, key=self._key)
        state = np.frombuffer(digest.digest(), dtype="<u8").astype(np.uint64)
        label = int(self._loop.below(state, 2))
        tables = self._tables[int(self._loop.below(state, len(self._tables)))]
        canvas, facts = self._loop.draw(tables, self._numbers, label, state)
        most = canvas.max()  # rounded half down, like the single-precision sums of the original
        pixels = ((510 * canvas + most - 1) // (2 * most)).astype(np.uint8)
        placed, restarts, *discs = map(int, facts)
        return Drawing(pixels, label, placed, restarts, (discs[0], discs[1]), (discs[2], discs[3]))


def make_tables(config: SnakeConfig, margin: int) -> Tables:
    """Stamps, steps and weights for one size of gap."""
    length = config.dash_length
    candidates = _circle(length + margin)
    degrees = np.radians(np.arange(-180, 180))
    angles = np.concatenate([degrees, np.arctan2(candidates[:, 0], candidates[:, 1])])
    drawn = [_draw_dash(config, margin, angle) for angle in angles]
    stamps, masks = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
    to_head = _steps(angles, length)
    turns = np.abs(angles[:, None] - angles[None, len(degrees) :])
    turns = np.minimum(turns, 2 * np.pi - turns)
    straightness = np.cos(np.minimum(config.continuity * turns, np.pi / 2)) ** 2
    return Tables(
        stamps=stamps,
        masks=masks,
        to_head=to_head,
        to_pivot=_steps(angles + np.pi, length + margin),
        to_next=_steps(angles, length + 2 * margin),
        to_seed=np.rint(_vectors(degrees, config.seed_distance)).astype(np.int64),
        candidates=candidates,
        weights=np.rint(straightness * 65536).astype(np.int64),
        nearby=np.argwhere(_disc_of(margin, margin)) - margin,
        footprints=_footprints(masks[: len(degrees)], to_head[: len(degrees)]),
        disc=_draw_disc(config.disc_radius),
    )


def _vectors(angles: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Rounded to nine digits, so that no machine's last bit decides how a sum is rounded to pixels."""
    return np.round(length * np.stack([np.sin(angles), np.cos(angles)], axis=1), 9)


def _steps(angles: NDArray[np.float64], length: float) -> Ints:
    return np.ceil(_vectors(angles, length)).astype(np.int64)


def _circle(radius: int) -> Ints:
    """The pixels met when going round a circle in steps of one pixel's length."""
    points = np.floor(_vectors(np.arange(0, 2 * np.pi, 1 / radius), radius))
    return np.unique(points.astype(np.int64), axis=0)


def _disc_of(radius: float, reach: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(y**2 + x**2 <= radius**2)


def _shrink(canvas: Bytes, size: int) -> Bytes:
    """Lanczos; the light rings that it leaves round every dash are part of the pictures."""
    from PIL import Image  # here and below: only making pictures needs it

    return np.asarray(Image.fromarray(canvas).resize((size, size), Image.Resampling.LANCZOS))


def _draw_dash(config: SnakeConfig, margin: int, angle: float) -> tuple[Bytes, Bytes]:
    """A dash that ends in the middle of its stamp, and the same dash widened by ``margin``."""
    from PIL import Image, ImageDraw

    reach = config.dash_length + math.ceil(config.dash_width) + margin
    size, middle = 2 * reach + 1, reach * _SCALE
    tail = middle + _steps(np.array([angle + np.pi]), config.dash_length * _SCALE)[0]
    canvas = Image.new("L", (2 * middle + 1, 2 * middle + 1))
    width = round(config.dash_width * _SCALE)
    ImageDraw.Draw(canvas).line([(middle, middle), (int(tail[1]), int(tail[0]))], fill=255, width=width)
    line = np.asarray(canvas)
    wide = np.zeros_like(line)
    for y, x in np.argwhere(_disc_of(margin * _SCALE, margin * _SCALE)) - margin * _SCALE:
        wide = np.maximum(wide, np.roll(line, (y, x), axis=(0, 1)))
    return _shrink(line, size), _shrink(wide, size)


def _draw_disc(radius: float) -> Bytes:
    reach = math.ceil(radius) + 3
    y, x = np.ogrid[-reach * _SCALE : (reach + 1) * _SCALE, -reach * _SCALE : (reach + 1) * _SCALE]
    disc = (y**2 + x**2 <= (radius * _SCALE) ** 2).astype(np.uint8) * np.uint8(255)
    return _shrink(disc, 2 * reach + 1)


def _footprints(masks: Bytes, to_head: Ints) -> Ints:
    found = [np.argwhere(mask > _SOLID) - masks.shape[1] // 2 + step for mask, step in zip(masks, to_head, strict=True)]
    most = max(map(len, found))
    return np.stack([np.resize(pixels, (most, 2)) for pixels in found])
