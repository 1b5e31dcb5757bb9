"""The loop that grows snakes, compiled by numba; see ``_snakes.py`` for what it does.

Imported only where pictures are made: the first time on a machine it is compiled, which takes some seconds.
Everything is whole numbers. ``tables`` is a ``Tables``; a dash is (y, x, orientation), where (y, x) is its head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from data._snakes import UNIT

_ROOM = 459  # two dashes may not lie on one pixel where their masks sum to 1.8
_FULL = 0.01  # no distractor is tried where a smaller share of the picture has room for a dash
_SAMPLES = 3  # heads tried before a snake gives up


def _compiled(function: Any) -> Any:
    return njit(cache=True, nogil=True)(function)


@_compiled
def below(state, bound):
    """A whole number below ``bound``, by SplitMix64."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.int64(((z >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@_compiled
def _merge(canvas, stamp, y, x, factor):
    """Puts a stamp in: the larger value stays."""
    reach = stamp.shape[0] // 2
    for row in range(max(0, y - reach), min(canvas.shape[0], y + reach + 1)):
        for column in range(max(0, x - reach), min(canvas.shape[1], x + reach + 1)):
            value = factor * stamp[row - y + reach, column - x + reach]
            if value > canvas[row, column]:
                canvas[row, column] = value


@_compiled
def _has_room(mask, stamp, y, x):
    reach = stamp.shape[0] // 2
    for row in range(max(0, y - reach), min(mask.shape[0], y + reach + 1)):
        for column in range(max(0, x - reach), min(mask.shape[1], x + reach + 1)):
            if np.int64(mask[row, column]) + np.int64(stamp[row - y + reach, column - x + reach]) >= _ROOM:
                return False
    return True


@_compiled
def _freedom(mask, nearby, y, x, strict):
    """255 less the most that is taken near a pixel."""
    most = 0
    for index in range(nearby.shape[0]):
        row, column = y + nearby[index, 0], x + nearby[index, 1]
        if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column] > most:
            most = mask[row, column]
    if strict and most > 0:
        return 0
    return 255 - most


@_compiled
def _extend(tables, mask, dash, pivot, new, sums, strict, state):
    """Adds a dash behind ``dash`` (y, x, orientation) and moves the pivot; False where it cannot go on."""
    side, last = mask.shape[0], dash[2]
    y, x = pivot[0] + tables.to_next[last, 0], pivot[1] + tables.to_next[last, 1]
    total = 0
    for index in range(len(tables.candidates)):
        weight = tables.weights[last, index]
        row, column = y + tables.candidates[index, 0], x + tables.candidates[index, 1]
        if weight > 0 and 0 <= row < side and 0 <= column < side:
            total += weight * _freedom(mask, tables.nearby, row, column, strict)
        sums[index] = total
    if total < 1e-4 * 65536 * 255:
        return False
    for _ in range(_SAMPLES):
        drawn = below(state, total)
        index = 0
        while sums[index] <= drawn:
            index += 1
        row, column = y + tables.candidates[index, 0], x + tables.candidates[index, 1]
        if _has_room(mask, tables.masks[360 + index], row, column):
            new[0], new[1], new[2] = row, column, 360 + index
            pivot[0], pivot[1] = y, x
            return True
    return False


@_compiled
def _start(tables, y, x, orientation, dash, pivot):
    """The first dash of a snake, by its tail."""
    dash[0], dash[1] = y + tables.to_head[orientation, 0], x + tables.to_head[orientation, 1]
    dash[2] = orientation
    pivot[0], pivot[1] = dash[0] + tables.to_pivot[orientation, 0], dash[1] + tables.to_pivot[orientation, 1]


@_compiled
def _inside(point, side):
    return 0 <= point[0] < side and 0 <= point[1] < side


@_compiled
def _take(tables, mask, dash):
    _merge(mask, tables.masks[dash[2]], dash[0], dash[1], 1)


@_compiled
def _grow_targets(tables, masks, dashes, tails, distance, sums, state):
    """One attempt at the two targets; ``masks[i]`` is what snake i must keep off."""
    side = masks.shape[1]
    for y in range(side):
        for x in range(side):
            edge = y == 0 or x == 0 or y == side - 1 or x == side - 1
            masks[0, y, x] = masks[1, y, x] = 255 if edge else 0
    pivots = np.empty((2, 2), np.int64)
    for axis in range(2):
        tails[0, axis] = 2 * distance + below(state, side - 4 * distance - 1)
    _start(tables, tails[0, 0], tails[0, 1], below(state, 360), dashes[0, 0], pivots[0])
    for attempt in range(_SAMPLES + 1):
        if attempt == _SAMPLES:
            return False
        angle = below(state, 360)
        for axis in range(2):
            tails[1, axis] = tails[0, axis] + tables.to_seed[angle, axis]
        _start(tables, tails[1, 0], tails[1, 1], below(state, 360), dashes[1, 0], pivots[1])
        if _inside(dashes[1, 0], side) and _inside(pivots[1], side):
            break
    for snake in range(2):
        _take(tables, masks[1 - snake], dashes[snake, 0])
    for step in range(1, dashes.shape[1]):
        for snake in range(2):
            last, new = dashes[snake, step - 1], dashes[snake, step]
            if not _extend(tables, masks[snake], last, pivots[snake], new, sums, False, state):
                return False
            _take(tables, masks[snake], last)
            _take(tables, masks[1 - snake], new)
    return True


@_compiled
def _find_room(mask, footprint, state, places, tail):
    """Draws a tail among the places where a dash fits; False where they are too few."""
    side, count = mask.shape[0], 0
    for place in range(side * side):
        y, x = place // side, place % side
        if mask[y, x] > 0:
            continue
        fits = True
        for index in range(len(footprint)):
            row, column = y + footprint[index, 0], x + footprint[index, 1]
            if not (0 <= row < side and 0 <= column < side) or mask[row, column] > 0:
                fits = False
                break
        if fits:
            places[count] = place
            count += 1
    if count <= _FULL * side * side:
        return False
    place = places[below(state, count)]
    tail[0], tail[1] = place // side, place % side
    return True


@_compiled
def _copy(source, target):
    for y in range(source.shape[0]):
        for x in range(source.shape[1]):
            target[y, x] = source[y, x]


@_compiled
def _grow_distractor(tables, mask, trial, dashes, starts, places, sums, state):
    """Puts one distractor into the mask, in a few tries; False where there is no room."""
    tail, pivot = np.empty(2, np.int64), np.empty(2, np.int64)
    for _ in range(starts):
        orientation = below(state, 360)
        if not _find_room(mask, tables.footprints[orientation], state, places, tail):
            continue
        _copy(mask, trial)
        _start(tables, tail[0], tail[1], orientation, dashes[0], pivot)
        complete = True
        for step in range(1, len(dashes)):
            if not _extend(tables, trial, dashes[step - 1], pivot, dashes[step], sums, True, state):
                complete = False
                break
            _take(tables, trial, dashes[step - 1])
        if complete:
            _take(tables, trial, dashes[-1])
            _copy(trial, mask)
            return True
    return False


@_compiled
def _paint(tables, canvas, dashes, contrast):
    for index in range(len(dashes)):
        _merge(canvas, tables.stamps[dashes[index, 2]], dashes[index, 0], dashes[index, 1], contrast)


@_compiled
def draw(tables, numbers, label, state):
    """The picture before it is scaled, and (distractors placed, restarts, y and x of both discs)."""
    side, contour, short, asked, distance = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    facts = np.zeros(6, np.int64)
    masks = np.empty((2, side, side), np.uint8)
    targets, tails = np.empty((2, contour, 3), np.int64), np.empty((2, 2), np.int64)
    sums = np.empty(len(tables.candidates), np.int64)
    while not _grow_targets(tables, masks, targets, tails, distance, sums, state):
        facts[1] += 1
    canvas = np.zeros((side, side), np.int64)
    for snake in range(2):
        _paint(tables, canvas, targets[snake], numbers[5])
        _take(tables, masks[0], targets[snake, -1])
    distractor, places = np.empty((short, 3), np.int64), np.empty(side * side, np.int64)
    for _ in range(asked):
        if _grow_distractor(tables, masks[0], masks[1], distractor, numbers[7], places, sums, state):
            facts[0] += 1
            _paint(tables, canvas, distractor, numbers[6])
    first = below(state, 2)
    second = first if label == 1 else 1 - first
    for axis in range(2):
        facts[2 + axis], facts[4 + axis] = tails[first, axis], targets[second, -1, axis]
    for disc in range(2):
        _merge(canvas, tables.disc, facts[2 + 2 * disc], facts[3 + 2 * disc], UNIT)
    return canvas, facts
