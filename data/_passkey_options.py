"""Options of the passkey task, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

from data._generated import Stage, check_curriculum
from data._needles import Named, Puzzle, Single, Tracking
from data._prompts import Placement
from data.options import added

#: What is counted in each kind, and how many there are where nothing else is said.
_COUNTS: dict[str, dict[str, int]] = {
    "single": {},
    "multi_key": {"num_keys": 4},
    "multi_value": {"num_values": 4},
    "multi_query": {"num_keys": 4, "num_queries": 2},
    "overwrite": {"num_keys": 2, "num_values": 3},
    "tracking": {"num_chains": 2, "num_hops": 2},
}
_AT_LEAST = {"num_keys": 1, "num_values": 2, "num_queries": 2, "num_chains": 1, "num_hops": 1}
_NAME_LETTERS = 2


@dataclass(frozen=True)
class PasskeyConfig:
    """Options of the passkey task."""

    level: str = "word"
    """Symbols: "word" (small closed vocabulary) or "byte"."""
    block_len: int = 64
    """Symbols in a block, the unit in which lengths are counted; normally the models' segment length."""
    key_digits: int = 5
    """Width of the key; leading zeros count."""
    steps: int = 1000
    """Number of training steps that the curriculum's fractions refer to."""
    curriculum: tuple[Stage, ...] = (Stage(0.3, 1, 2), Stage(0.6, 1, 4), Stage(1.0, 1, 8))
    """Stages of growing length, in order."""
    depth: str | float = "random"
    """Where the needle stands in training: "random" per sequence, or one share of the filler in [0, 1]."""
    answer_weight: float = 1.0
    """Loss weight of the key's digits, summed over a sequence."""
    lm_weight: float = 0.1
    """Loss weight of all other symbols, summed over a sequence."""
    eval_factors: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Test lengths as multiples of the longest training length, besides the training lengths themselves."""
    eval_blocks: tuple[int, ...] | None = None
    """Test lengths in blocks, instead of ``eval_factors``."""
    eval_depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Depths at which every test length is asked."""
    eval_samples: int = 16
    """Prompts per cell of length and depth."""
    val_factors: tuple[float, ...] = (1,)
    """Validation lengths as multiples of the longest training length."""
    val_depths: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Depths at which every validation length is asked."""
    val_samples: int = 48
    """Prompts in each validation length, over all depths."""
    eval_chunk: int = 2048
    """Symbols of each prompt that are streamed through the model at a time (rounded to whole blocks)."""
    kind: str = added("single")
    """What is asked: "single", "multi_key", "multi_value", "multi_query", "overwrite" or "tracking"."""
    num_keys: int | None = added(None)
    """Named keys in a prompt (multi_key, multi_query, overwrite); null: 4, of overwrite 2."""
    num_values: int | None = added(None)
    """Values of each name (multi_value, overwrite); null: 4, of overwrite 3."""
    num_queries: int | None = added(None)
    """Names that are asked for (multi_query); null: 2."""
    num_chains: int | None = added(None)
    """Chains of names (tracking); null: 2."""
    num_hops: int | None = added(None)
    """Names of a chain that follow its first (tracking); null: 2."""
    ask: str | None = added(None)
    """What is asked of a chain (tracking): "value" or "names"; null: value."""
    name_letters: int | None = added(None)
    """Width of a name (all kinds but single); null: 2."""
    filler: str = added("period")
    """What needles are hidden in: "period", "text" (byte level) or "needles" (all kinds but single)."""
    spacing: int | None = added(None)
    """Symbols of filler between a needle and the next; null: any number."""
    straddle: str = added("any")
    """Whether needles stand on both sides of a block border: "any", "never" or "always"."""

    def __post_init__(self) -> None:
        for name in ("curriculum", "eval_factors", "eval_depths", "val_factors", "val_depths", "eval_blocks"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        _check_config(self)

    @property
    def min_blocks(self) -> int:
        """The shortest training length in blocks."""
        return min(stage.min_blocks for stage in self.curriculum)

    @property
    def max_blocks(self) -> int:
        """The longest training length in blocks."""
        return max(stage.max_blocks for stage in self.curriculum)

    def puzzle(self) -> Puzzle:
        """What prompts state and ask."""
        if self.kind == "single":
            return Single(self.level, key_digits=self.key_digits)
        widths = {"key_digits": self.key_digits, "name_letters": self.name_letters or _NAME_LETTERS}
        counts = {key: getattr(self, key) or default for key, default in _COUNTS[self.kind].items()}
        if self.kind == "tracking":
            return Tracking(self.level, ask=self.ask or "value", **widths, **counts)
        return Named(self.level, self.kind, **widths, **counts)

    def placement(self) -> Placement:
        """Where needles stand."""
        return Placement(self.puzzle(), self.block_len, self.spacing, self.straddle)


def _check_config(config: PasskeyConfig) -> None:
    def require(holds: bool, key: str, rule: str) -> None:
        if not holds:
            raise ValueError(f"task.{key} must be {rule}, got {getattr(config, key)!r}")

    require(config.level in ("word", "byte"), "level", "'word' or 'byte'")
    require(3 <= config.key_digits <= 12, "key_digits", "3 to 12")
    for key in ("block_len", "steps", "eval_samples", "val_samples", "eval_chunk"):
        require(getattr(config, key) >= 1, key, "1 or more")
    for key in ("answer_weight", "lm_weight"):
        require(getattr(config, key) >= 0, key, "0 or more")
    require(config.answer_weight + config.lm_weight > 0, "answer_weight", "above 0 where lm_weight is 0")
    depth = -1.0 if isinstance(config.depth, str) else config.depth
    require(config.depth == "random" or 0 <= depth <= 1, "depth", "'random' or a share in [0, 1]")
    for key in ("eval_depths", "val_depths"):
        depths = getattr(config, key)
        require(len(depths) > 0 and all(0 <= d <= 1 for d in depths), key, "a list of shares in [0, 1]")
    require(len(config.val_factors) > 0, "val_factors", "a list of at least one factor")
    for key in ("eval_factors", "val_factors"):
        require(all(factor > 0 for factor in getattr(config, key)), key, "a list of factors above 0")
    require(all(blocks >= 1 for blocks in config.eval_blocks or ()), "eval_blocks", "1 or more each, or null")
    require(config.kind in _COUNTS, "kind", f"one of {', '.join(_COUNTS)}")
    require(config.ask in (None, "value", "names"), "ask", "'value', 'names' or null")
    require(config.filler in ("period", "text", "needles"), "filler", "'period', 'text' or 'needles'")
    require(config.straddle in ("any", "never", "always"), "straddle", "'any', 'never' or 'always'")
    for key, least in {**_AT_LEAST, "spacing": 0}.items():
        require(getattr(config, key) is None or getattr(config, key) >= least, key, f"{least} or more, or null")
    require(config.name_letters is None or 1 <= config.name_letters <= 8, "name_letters", "1 to 8, or null")
    _check_effects(config)
    check_curriculum(config.curriculum)
    _check_places(config)


def _check_effects(config: PasskeyConfig) -> None:
    """Refuses options that the kind would ignore, and those that contradict one another."""

    def refuse(holds: bool, key: str, reason: str) -> None:
        if holds:
            raise ValueError(f"task.{key}={getattr(config, key)}: {reason}")

    users = {key: [kind for kind, counts in _COUNTS.items() if key in counts] for key in _AT_LEAST}
    users |= {"ask": ["tracking"], "name_letters": [kind for kind in _COUNTS if kind != "single"]}
    for key, kinds in users.items():
        unused = config.kind not in kinds and getattr(config, key) is not None
        refuse(unused, key, f"has no effect with task.kind={config.kind}; it belongs to {', '.join(kinds)}")
    if config.kind == "multi_query":
        num_keys = config.num_keys or _COUNTS["multi_query"]["num_keys"]
        refuse((config.num_queries or 2) > num_keys, "num_queries", f"a prompt has no more than {num_keys} keys")
    nameless = config.filler == "needles" and config.kind == "single"
    refuse(nameless, "filler", "needs needles with names: set task.kind=multi_key, or another kind than single")
    wordless = config.filler == "text" and config.level == "word"
    refuse(wordless, "filler", "needs task.level=byte: the words of film reviews are not in the vocabulary")
    if config.spacing is not None:
        refuse(len(config.puzzle().lengths) == 1, "spacing", "has no effect on a single needle")
        refuse(config.straddle != "any", "spacing", f"cannot be kept with task.straddle={config.straddle}")


def _check_places(config: PasskeyConfig) -> None:
    """Refuses needles that cannot be drawn, or find no place in the longest prompt of training."""
    placement = config.placement()
    placement.puzzle.check_supply()
    needle_len = int(placement.puzzle.lengths.max())
    if config.straddle == "never" and needle_len > config.block_len:
        raise ValueError(
            f"task.straddle=never: a needle of {needle_len} symbols does not fit into a block of "
            f"block_len={config.block_len}"
        )
    if config.max_blocks * config.block_len < placement.shortest:
        raise ValueError(
            f"task.curriculum: {config.max_blocks} blocks of block_len={config.block_len} are too short: "
            f"the shortest prompt at task.level={config.level} has {placement.shortest} symbols"
        )
