"""Peers that are installed take our signatures; those that are not are named, and refused with a word."""

import pytest
import torch

from experiments import peers

SIZES = {
    "vocab_size": 17,
    "max_len": 40,
    "width": 16,
    "depth": 2,
    "num_heads": 2,
    "ffn_width": 64,
    "segment_len": 16,
    "memory_len": 4,
}


def test_every_peer_has_a_language_model() -> None:
    assert peers.PEERS.keys() == peers._LANGUAGE_MODELS.keys()
    assert set(peers.installed()) <= peers.PEERS.keys()


def test_a_peer_that_cannot_be_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no peer is called 'infini'; there are infini-transformer-pytorch"):
        peers.build_language_model("infini", **SIZES)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert peers.installed() == ()
    with pytest.raises(ValueError, match="needs the package memformer: see requirements-bench"):
        peers.build_language_model("memformer-encoder", **SIZES)


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("name", peers.installed())
def test_a_language_model_gives_logits_for_any_length_and_sees_no_later_token(name: str) -> None:
    torch.manual_seed(0)
    model = peers.build_language_model(name, **SIZES)
    tokens = torch.randint(17, (2, 37))
    logits = model(tokens)
    assert logits.shape == (2, 37, 17)
    logits.sum().backward()
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 17
    same = torch.equal(model(changed)[:, :20], logits[:, :20])
    assert same == peers.PEERS[name].is_causal
    assert peers.PEERS[name].version


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in peers._ENCODERS if peers.PEERS[name].is_installed])
def test_an_encoder_gives_rows(name: str) -> None:
    assert peers.build_encoder(name, **SIZES)(torch.randint(17, (2, 37))).shape == (2, 37, 16)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in peers._ATTENTIONS if peers.PEERS[name].is_installed])
def test_attention_alone_gives_rows(name: str) -> None:
    attention = peers.build_attention(name, width=16, num_heads=2, segment_len=16)
    assert attention(torch.randn(2, 64, 16)).shape == (2, 64, 16)
