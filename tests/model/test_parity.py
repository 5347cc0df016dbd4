"""The model against transformers' own DBRX with the same weights."""

import pytest
import torch
from transformers import DbrxConfig, DbrxForCausalLM

from model import dbrx
from model.config import AttentionConfig, FFNConfig, ModelConfig
from model.head import IGNORED
from model.router import load_balancing_loss

NO_CLIP = 1e30  # transformers' clamp fails without a bound

CONFIGS = [
    ModelConfig(
        d_model=32,
        n_heads=heads,
        n_layers=2,
        max_seq_len=24,
        vocab_size=61,
        attn_config=AttentionConfig(kv_n_heads=kv_heads, clip_qkv=clip, rope_theta=theta),
        ffn_config=FFNConfig(
            ffn_hidden_size=20, moe_num_experts=6, moe_top_k=k, moe_normalize_expert_weights=p, moe_loss_weight=0.05
        ),
        initializer_range=0.2,  # large enough that clamping bites and the router is sure of itself
    )
    for (heads, kv_heads), clip, theta, k, p in [
        ((4, 4), None, 10_000.0, 1, 1.0),
        ((4, 2), 0.7, 500_000.0, 2, 1.0),
        ((4, 1), 0.3, 10_000.0, 4, 1.0),
        ((8, 2), None, 500_000.0, 4, 2.0),
        ((2, 1), 1.0, 10_000.0, 2, None),
        ((8, 4), 0.5, 100.0, 4, None),
    ]
]


def _theirs(config: ModelConfig) -> DbrxForCausalLM:
    attention, ffn = config.attn_config, config.ffn_config
    return DbrxForCausalLM(
        DbrxConfig(
            d_model=config.d_model,
            n_heads=config.n_heads,
            n_layers=config.n_layers,
            max_seq_len=config.max_seq_len,
            vocab_size=config.vocab_size,
            attn_config={
                "kv_n_heads": attention.kv_n_heads,
                "clip_qkv": attention.clip_qkv or NO_CLIP,
                "rope_theta": attention.rope_theta,
            },
            ffn_config={
                "ffn_hidden_size": ffn.ffn_hidden_size,
                "moe_num_experts": ffn.moe_num_experts,
                "moe_top_k": ffn.moe_top_k,
                "moe_normalize_expert_weights": ffn.moe_normalize_expert_weights,
                "moe_loss_weight": ffn.moe_loss_weight,
            },
            rope_parameters={"rope_type": "default", "rope_theta": attention.rope_theta},
        )
    )


def _relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.fixture(scope="module", params=CONFIGS, ids=range(len(CONFIGS)))
def pair(request):
    ours = dbrx.DbrxForCausalLM(request.param, seed=3)
    theirs = _theirs(request.param)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    tokens = torch.randint(request.param.vocab_size, (3, 24), generator=torch.Generator().manual_seed(5))
    return ours, theirs, tokens, theirs(tokens, labels=tokens, output_router_logits=True, use_cache=False)


def test_state_dict_is_transformers(pair):
    ours, theirs, *_ = pair
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_logits_router_and_balancing_loss(pair):
    ours, _, tokens, expected = pair
    output = ours(tokens)
    assert _relative(output.logits_BTV, expected.logits) < 1e-5
    for routing, logits in zip(output.routings, expected.router_logits, strict=True):
        assert _relative(routing.logits_NE, logits) < 1e-5
    torch.testing.assert_close(load_balancing_loss(output.routings), expected.aux_loss, rtol=1e-6, atol=0)


def test_loss_and_every_gradient(pair):
    ours, theirs, tokens, expected = pair
    targets = torch.cat([tokens[:, 1:], torch.full((3, 1), IGNORED)], dim=1)
    output = ours(tokens, targets)
    weight = ours.config.ffn_config.moe_loss_weight
    loss = output.token_loss.mean + weight * load_balancing_loss(output.routings)
    torch.testing.assert_close(loss, expected.loss, rtol=1e-6, atol=0)
    ours.zero_grad(), theirs.zero_grad()
    loss.backward()
    expected.loss.backward(retain_graph=True)
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert _relative(mine.grad, other.grad) < 1e-5, name


def test_configs_cover_what_they_should():
    used = [(c.n_heads // c.attn_config.kv_n_heads, c.attn_config.clip_qkv is None) for c in CONFIGS]
    assert {ratio for ratio, _ in used} == {1, 2, 4} and {clip for _, clip in used} == {True, False}
    assert {c.ffn_config.moe_top_k for c in CONFIGS} == {1, 2, 4}
    assert {c.ffn_config.moe_normalize_expert_weights for c in CONFIGS} == {None, 1.0, 2.0}


def test_clamping_bites(pair):
    ours, _, tokens, _ = pair
    if (clip := ours.config.attn_config.clip_qkv) is None:
        return
    block = ours.transformer.blocks[0].norm_attn_norm
    qkv = block.attn.Wqkv(block.norm_1(ours.transformer.wte(tokens)))
    assert 0.01 < (qkv.abs() > clip).float().mean() < 0.9


def test_batches_of_a_sequence_do_not_mix(pair):
    ours, _, tokens, _ = pair
    alone = torch.cat([ours(row[None]).logits_BTV for row in tokens])
    torch.testing.assert_close(alone, ours(tokens).logits_BTV, rtol=1e-4, atol=1e-5)


def test_causal(pair):
    ours, _, tokens, _ = pair
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % ours.config.vocab_size
    before, after = ours(tokens).logits_BTV, ours(changed).logits_BTV
    torch.testing.assert_close(before[:, :10], after[:, :10], rtol=1e-4, atol=1e-5)
    assert all(not torch.allclose(before[b, 10], after[b, 10]) for b in range(3))
