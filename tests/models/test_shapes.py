"""Parity with the reference at shapes that nobody thought of: drawn, where ``test_laws.py`` covers chosen settings.

A sequence may be shorter than a segment, or one token long, or divide by nothing; a memory may be empty; a batch may be
one sequence, or several of different lengths. Sizes that do not go together must be refused in words.
"""

from dataclasses import fields

import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor

import models
from tests.models.cases import CASES, VARIANTS, Options, build, random_tokens
from tests.models.parity import assert_parity, named, of_reference

#: By option, the sizes to draw from; each variant takes those that it has.
SIZES = {
    "block_len": st.integers(1, 5),
    "memory_blocks": st.integers(0, 3),
    "lookahead_blocks": st.integers(0, 2),
    "memory_len": st.integers(0, 4),
    "fam_len": st.integers(0, 4),
    "past_fams": st.integers(1, 3),
    "chunk_len": st.integers(1, 5),
    "kernel": st.integers(1, 5),
    "stride": st.integers(1, 3),
    "blocks_at_once": st.none() | st.integers(1, 3),
}
FORMS: dict[str, Options] = {"causal": {"causal": True}, "both ways": {"causal": False, "num_classes": 3}}


def draw_model(name: str, form: Options, data: st.DataObject) -> models.Model:
    """A setting of the variant's entry with other sizes."""
    case = CASES[name]
    options = data.draw(st.sampled_from((case.options, *case.others)), label="options")
    own = {field.name for field in fields(models.options_class(name))}
    drawn = st.fixed_dictionaries({key: size for key, size in SIZES.items() if key in own})
    sizes = data.draw(drawn, label="sizes")
    try:
        return build(name, **form, **(options | sizes))
    except ValueError:
        reject()


def draw_batch(data: st.DataObject) -> tuple[Tensor, Tensor | None]:
    """Up to three sequences; where their lengths differ, a mask says so."""
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3), label="lengths")
    tokens = random_tokens(len(lengths), max(lengths), seed=sum(lengths))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return tokens, None if mask.all() else mask


def run(model: models.Model, tokens: Tensor, mask: Tensor | None, cut: int) -> tuple[Tensor, models.ModelState]:
    """The whole at once, or in two pieces."""
    if not cut:
        return model(tokens, mask)
    first, state = model(tokens[:, :cut])
    second, state = model(tokens[:, cut:], None, state)
    return torch.cat((first, second), dim=1), state


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(data=st.data())
@torch.no_grad()
def test_any_shape_equals_the_reference(name: str, form: Options, data: st.DataObject) -> None:
    model = draw_model(name, form, data)
    tokens, mask = draw_batch(data)
    streams = form["causal"] and mask is None
    cut = data.draw(st.integers(0, tokens.shape[1] - 1), label="cut") if streams else 0
    expected = of_reference(model, tokens, mask, pair=None)
    actual = named(list(expected), *run(model, tokens, mask, cut), mask=mask)
    assert_parity(actual, expected, 1e-10)
