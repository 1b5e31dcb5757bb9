"""Plain values into frozen dataclasses: every key compared with the fields, every type checked, each mistake one line.

OmegaConf checks types and runs ``__post_init__``; unknown keys it would take. Importing this module loads neither torch
nor Lightning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError

from experiments.errors import ConfigError, first_line, unknown


def typed(cls: type, values: Mapping[str, Any], key: str) -> Any:
    """An instance of dataclass ``cls`` from plain values, every key and type checked.

    Args:
        cls: the dataclass.
        values: field names and values.
        key: dotted name of the section, for messages.
    """
    refuse_unknown(values, [item.name for item in fields(cls)], key)
    for item in fields(cls):  # OmegaConf would take any number for a truth value
        if item.type in (bool, "bool") and not isinstance(values.get(item.name, True), bool):
            raise ConfigError(f"{_join(key, item.name)}={values[item.name]!r}: expected {_TYPE_WORDS['bool']}")
    try:
        schema = OmegaConf.structured(cls)
        return OmegaConf.to_object(OmegaConf.merge(schema, dict(values)))
    except MissingMandatoryValue as error:
        raise ConfigError(f"{_join(key, error.full_key)} is not set") from error
    except ValidationError as error:
        raise ConfigError(_explain_type(cls, values, key, error)) from error
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(first_line(error)) from error


def refuse_unknown(values: Mapping[str, Any], known: list[str], section: str) -> None:
    """Compares keys with those that a section has.

    Raises:
        ConfigError: names the first that it has not, and what comes close.
    """
    for name in values:
        if name not in known:
            kind = f"key in {section}" if section else "key"
            raise ConfigError(unknown(kind, str(name), known))


def _explain_type(cls: type, values: Mapping[str, Any], section: str, error: OmegaConfBaseException) -> str:
    """Turns OmegaConf's "could not be converted" into the key, the value and the type that was wanted."""
    name = str(error.full_key or "")
    top = name.split(".")[0].split("[")[0]
    wanted = next((item.type for item in fields(cls) if item.name == top), "another type")
    wanted = wanted if isinstance(wanted, str) else getattr(wanted, "__name__", str(wanted))
    return f"{_join(section, name)}={values.get(top)!r}: expected {_TYPE_WORDS.get(wanted, wanted)}"


_TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a word",
    "float | None": "a number or null",
    "int | None": "a whole number or null",
    "str | None": "a word or null",
    "dict[str, Any] | None": "{key: value} or null",
}


def _join(section: str, name: Any) -> str:
    return f"{section}.{name}" if section else str(name)
