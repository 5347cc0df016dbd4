"""The model against transformers' own DBRX with the same weights."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import DbrxConfig, DbrxForCausalLM

from model import dbrx
from model.config import AttentionConfig, AttentionImplementation, ModelConfig
from model.ffn_config import FFNConfig
from model.head import IGNORED
from model.rope_config import RopeParameters, RopeType
from model.router import load_balancing_loss

NO_CLIP = 1e30  # transformers' clamp fails without a bound
ROPES = [
    RopeParameters(),
    RopeParameters(RopeType.linear, factor=3.0),
    RopeParameters(RopeType.yarn, factor=3.0, original_max_position_embeddings=8, beta_fast=4.0, beta_slow=0.5),
    RopeParameters(
        RopeType.llama3, factor=3.0, original_max_position_embeddings=8, low_freq_factor=1.0, high_freq_factor=4.0
    ),
]


def _random_config(seed: int) -> ModelConfig:
    """A small model whose every choice is drawn."""
    draw = random.Random(seed)
    kv_heads, ratio = draw.choice([1, 2, 3]), draw.choice([1, 2, 4])
    experts = draw.choice([4, 5, 8])
    return ModelConfig(
        d_model=kv_heads * ratio * draw.choice([8, 12]),
        n_heads=kv_heads * ratio,
        n_layers=draw.choice([1, 3]),
        max_seq_len=24,
        vocab_size=draw.randrange(40, 90),
        attn_config=AttentionConfig(
            kv_n_heads=kv_heads, clip_qkv=draw.choice([None, 0.1, 0.4]), rope_theta=draw.choice([100.0, 10_000.0, 5e5])
        ),
        ffn_config=FFNConfig(
            ffn_hidden_size=draw.randrange(9, 33),
            moe_num_experts=experts,
            moe_top_k=draw.choice([1, 2, 4]),
            moe_normalize_expert_weights=draw.choice([None, 1.0, 2.0, 3.0]),
            moe_loss_weight=draw.choice([0.01, 0.05, 0.5]),
        ),
        rope_parameters=draw.choice(ROPES),
        initializer_range=draw.choice([0.1, 0.2]),
        tie_word_embeddings=draw.random() < 0.5,
        attn_implementation=draw.choice([AttentionImplementation.sdpa, AttentionImplementation.eager]),
    )


CHOSEN = [
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


CONFIGS = [*CHOSEN, *(_random_config(seed) for seed in range(8))]


def _theirs(config: ModelConfig) -> DbrxForCausalLM:
    attention, ffn = config.attn_config, config.ffn_config
    model = DbrxForCausalLM(
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
            rope_parameters={**config.rope.given(), "rope_type": config.rope.rope_type.value},
        )
    )
    if config.tie_word_embeddings:  # which its config refuses
        model.lm_head.weight = model.transformer.wte.weight
    return model


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
    ratios = {(c.n_heads // c.attn_config.kv_n_heads, c.attn_config.clip_qkv is None) for c in CONFIGS}
    assert {ratio for ratio, _ in ratios} == {1, 2, 4} and {clip for _, clip in ratios} == {True, False}
    assert {c.ffn_config.moe_top_k for c in CONFIGS} == {1, 2, 4}
    assert {c.ffn_config.moe_normalize_expert_weights for c in CONFIGS} >= {None, 1.0, 2.0}
    assert {c.tie_word_embeddings for c in CONFIGS} == {True, False}
    assert {c.rope_parameters.rope_type for c in CONFIGS} == set(RopeType)
    assert {c.attn_implementation.value for c in CONFIGS} == {"sdpa", "eager"}


def test_clamping_bites(pair):
    ours, _, tokens, _ = pair
    if (clip := ours.config.attn_config.clip_qkv) is None:
        return
    block = ours.transformer.blocks[0].norm_attn_norm
    qkv = block.attn.Wqkv(block.norm_1(ours.transformer.wte(tokens)))
    assert 0.01 < (qkv.abs() > clip).float().mean() < 0.97


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


@pytest.fixture
def one_thread():
    """Operators as small as these cost several threads twice the time of one, and much more where others work too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("top_k", "rope", "tied"), [(1, 0, False), (2, 2, True), (4, 3, False)])
def test_training_stays_with_transformers(top_k, rope, tied, one_thread):
    """200 steps of AdamW on the same batches, with the load-balancing loss, from the same weights."""
    config = replace(
        CHOSEN[1],
        ffn_config=replace(CHOSEN[1].ffn_config, moe_top_k=top_k),
        rope_parameters=ROPES[rope],
        tie_word_embeddings=tied,
        initializer_range=0.05,
    )
    ours, theirs = dbrx.DbrxForCausalLM(config, seed=3), _theirs(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1, fused=True) for model in (ours, theirs)
    ]
    generator = torch.Generator().manual_seed(7)
    following = torch.randint(config.vocab_size, (config.vocab_size, 3), generator=generator)
    losses = []
    for _ in range(200):
        tokens = _walk(following, generator)
        targets = torch.cat([tokens[:, 1:], torch.full((len(tokens), 1), IGNORED)], dim=1)
        output = ours(tokens, targets)
        mine = output.token_loss.mean + 0.05 * load_balancing_loss(output.routings)
        other = theirs(tokens, labels=tokens, output_router_logits=True, use_cache=False).loss
        losses.append((mine.item(), other.item()))
        for loss, optimizer in zip((mine, other), optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    worst = max(abs(mine - other) for mine, other in losses)
    print(f"largest difference {worst:.1e}; loss {losses[0][0]:.3f} -> {losses[-1][0]:.3f}")
    assert worst < 1e-4 and losses[-1][0] < losses[0][0] - 1


def _walk(following: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Tokens each of which is followed by one of three: something to learn."""
    tokens = [torch.randint(len(following), (4,), generator=generator)]
    for _ in range(23):
        tokens.append(following[tokens[-1], torch.randint(3, (4,), generator=generator)])
    return torch.stack(tokens, dim=1)
