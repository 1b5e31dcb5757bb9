"""Where ``mode=tune`` looks: the ranges of ``tune.space``, made into values that one run can have.

    tune.space:
      trainer:
        learning_rate: {times: [0.125, 8.0]}   log-uniform around the configured value
        weight_decay: {choices: [0.0, 0.1]}
      model:
        temperature: {low: 0.1, high: 1.0}     add log: true for log-uniform; whole numbers stay whole

The configured value always belongs to its range: choices without it get it, ends that leave it out are moved to it.
Importing this module loads neither torch nor Optuna.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from experiments.errors import ConfigError, unknown

if TYPE_CHECKING:
    from experiments.config import RunConfig

Value = float | int | str | bool | None

#: What a search may vary: how a variant is built and trained, never what it is measured on.
SECTIONS = ("model", "backbone", "trainer")

_WORDS = ("choices", "high", "log", "low", "times")

#: Digits that a drawn number keeps: more would say nothing, and be hard to read and to type.
_DIGITS = 4


@dataclass(frozen=True)
class Range:
    """One entry of ``tune.space``; exactly one of choices, times, and low with high is given."""

    key: str
    """The override's key, such as ``trainer.learning_rate``."""
    choices: tuple[Value, ...] | None = None
    """Values without an order."""
    times: tuple[float, float] | None = None
    """Ends as multiples of the configured value, log-uniform."""
    low: float | None = None
    """Lowest value."""
    high: float | None = None
    """Highest value."""
    log: bool = False
    """Log-uniform between low and high."""

    def __post_init__(self) -> None:
        ends = self.low is not None or self.high is not None
        if sum((self.choices is not None, self.times is not None, ends)) != 1:
            raise ConfigError(
                f"{self.name}: give one of {{choices: [...]}}, {{times: [...]}} and {{low: ..., high: ...}}"
            )
        if self.choices is not None:
            self._check(len(self.choices) > 0, "choices", "must name at least one value")
            plain = all(value is None or isinstance(value, float | int | str) for value in self.choices)
            self._check(
                plain and len(set(map(repr, self.choices))) == len(self.choices), "choices", "plain values, each once"
            )
        if self.times is not None:
            good = len(self.times) == 2 and all(map(is_number, self.times)) and 0 < self.times[0] <= 1 <= self.times[-1]
            self._check(good and self.times[0] < self.times[1], "times", "two factors around 1, such as [0.125, 8.0]")
        if ends:
            self._check(is_number(self.low), "low", "expected a number, as there is high")
            self._check(is_number(self.high), "high", "expected a number, as there is low")
            assert self.low is not None
            assert self.high is not None
            self._check(self.low < self.high, "high", f"must be above low={self.low}")
            self._check(self.low > 0 or not self.log, "low", "must be above 0 with log: true")
        self._check(isinstance(self.log, bool), "log", "expected true or false")
        self._check(ends or not self.log, "log", "has no effect without low and high")

    @property
    def name(self) -> str:
        """For messages."""
        return f"tune.space.{self.key}"

    def _check(self, holds: bool, word: str, rule: str) -> None:
        if not holds:
            raise ConfigError(f"{self.name}.{word}={getattr(self, word)}: {rule}")

    def around(self, value: Value) -> Domain:
        """The range with the configured value in it.

        Raises:
            ConfigError: the configured value is no number, or not above 0 where the range is logarithmic.
        """
        if self.choices is not None:
            return Domain(value, choices=self.choices if value in self.choices else (value, *self.choices))
        log = self.log or self.times is not None
        if not is_number(value) or (log and value <= 0):  # type: ignore[operator]
            kind = "a number above 0" if log else "a number"
            raise ConfigError(
                f"{self.name}: needs {kind} as configured value, and {self.key}={literal(value)}: use choices"
            )
        assert isinstance(value, float | int)
        if self.times is not None:
            low, high = (value * factor for factor in self.times)
        else:
            assert self.low is not None
            assert self.high is not None
            low, high = min(self.low, value), max(self.high, value)
        whole = isinstance(value, int) and (self.times is not None or (isinstance(low, int) and isinstance(high, int)))
        if whole:
            low, high = math.ceil(low), math.floor(high)
        return Domain(value, low=low, high=high, log=log, whole=whole)


@dataclass(frozen=True)
class Domain:
    """The values of one setting in one search."""

    configured: Value
    """What the recipe says: the first trial's."""
    choices: tuple[Value, ...] | None = None
    """All there are, or None for a range of numbers."""
    low: float = 0.0
    """Lowest."""
    high: float = 0.0
    """Highest."""
    log: bool = False
    """Log-uniform."""
    whole: bool = False
    """Whole numbers only."""

    @property
    def ends(self) -> tuple[Value, ...]:
        """What is tried out before anything starts: each choice, or both ends."""
        return self.choices if self.choices is not None else (self.low, self.high)

    def rounded(self, drawn: Value) -> Value:
        """A drawn value as it is run. The configured one stays as it is."""
        if drawn == self.configured or self.choices is not None or self.whole:
            return drawn
        assert isinstance(drawn, float | int)
        return min(max(float(f"{drawn:.{_DIGITS}g}"), self.low), self.high)


def read_space(space: Mapping[str, Any]) -> dict[str, Range]:
    """The entries of ``tune.space`` by key. Keys are nested sections or dotted; null takes an entry out.

    Raises:
        ConfigError: one line that names the entry.
    """
    return dict(_entries(space, ""))


def _entries(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Range]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"tune.space.{key}={value}: expected {{choices: [...]}}, {{times: [...]}} or {{low: ..., high: ...}}"
            )
        if any(word in _WORDS and not isinstance(item, Mapping) for word, item in value.items()):
            yield key, _range(key, value)
        else:
            yield from _entries(value, f"{key}.")


def _range(key: str, values: Mapping[str, Any]) -> Range:
    for word in values:
        if word not in _WORDS:
            raise ConfigError(unknown(f"key in tune.space.{key}", str(word), _WORDS))
    if key.partition(".")[0] not in SECTIONS or "." not in key:
        raise ConfigError(f"tune.space.{key}: only settings of {', '.join(SECTIONS)} can be tuned")
    lists = {word: values[word] for word in ("choices", "times") if values.get(word) is not None}
    for word, value in lists.items():
        if not isinstance(value, list | tuple):
            raise ConfigError(f"tune.space.{key}.{word}={value}: expected a list, such as [{value}]")
    return Range(key, **{**values, **{word: tuple(value) for word, value in lists.items()}})


def domains(config: RunConfig) -> dict[str, Domain]:
    """What a search around these settings varies.

    Raises:
        ConfigError: the space is empty, or names what these settings do not have or what changes no number.
    """
    ranges = read_space(config.tune.space)
    if not ranges:
        raise ConfigError("tune.space is empty: there is nothing to tune")
    return {key: item.around(configured(config, key)) for key, item in ranges.items()}


def configured(config: RunConfig, key: str) -> Value:
    """The value of ``model.x``, ``backbone.x`` or ``trainer.x``.

    Raises:
        ConfigError: there is no such setting, or it changes no number.
    """
    from experiments.identity import WITHOUT_EFFECT

    section, _, name = key.partition(".")
    values = config.model.options if section == "model" else getattr(config, section)
    names = [field.name for field in fields(values)]
    if name not in names:
        raise ConfigError(f"tune.space.{key}: {unknown(f'key in {section}', name, names)}")
    if section == "trainer" and name in WITHOUT_EFFECT:
        raise ConfigError(f"tune.space.{key}: has no effect on what a run learns")
    return getattr(values, name)


def assignment(key: str, value: Value) -> str:
    """The override that sets a value: ``trainer.learning_rate=0.002``."""
    return f"{key}={literal(value)}"


def literal(value: Value) -> str:
    """A value as the command line writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and not re.fullmatch(
        r"(?!true$|false$|null$|nan$|inf$)[A-Za-z_][\w-]*", value, re.IGNORECASE
    ):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)


def is_number(value: object) -> bool:
    """Whether it is a finite number, and no truth value."""
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
