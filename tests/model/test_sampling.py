"""Tokens are drawn from the model's own distribution, and the same seed draws the same."""

from dataclasses import replace

import pytest
import torch

from model.config import AttentionConfig, ModelConfig
from model.dbrx import DbrxForCausalLM
from model.documents import find_documents
from model.ffn_config import FFNConfig
from model.sampling import Sampling, draw, sample

CONFIG = ModelConfig(
    d_model=32,
    n_heads=4,
    n_layers=2,
    max_seq_len=16,
    vocab_size=40,
    attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0),
    ffn_config=FFNConfig(ffn_hidden_size=16, moe_num_experts=4, moe_top_k=2),
    initializer_range=0.3,
)
END = 39
MODEL = DbrxForCausalLM(CONFIG, seed=1).eval()


def tokens(prompt: list[int], count: int, sampling: Sampling, allowed: range = range(40)) -> list[int]:
    return [*sample(MODEL, prompt, allowed, count, sampling, END)]


def test_greedy_takes_the_likeliest_and_looks_no_further_back_than_the_model_can() -> None:
    found = tokens([3, 1, 4], 30, Sampling(temperature=0))
    assert len(found) == 30
    everything = [3, 1, 4, *found]
    for place in range(3, 33):
        window = torch.tensor([everything[max(0, place - 16) : place]])
        assert everything[place] == MODEL(window).logits_BTV[0, -1].argmax()
    assert len(set(found)) > 3


def test_a_model_of_single_documents_sees_those_that_training_would_show_it() -> None:
    """Among end-of-text tokens that are the end of a document, padding, or where an empty prompt begins."""
    strict = DbrxForCausalLM(replace(CONFIG, attend_across_documents=False), seed=1).eval()
    for prompt in ([END], [3, 1, END], [3, END, END, END, 5, 1, END, 7]):
        everything = [*prompt, *sample(strict, prompt, range(40), 25, Sampling(temperature=0), END)]
        across = [*prompt, *tokens(prompt, 25, Sampling(temperature=0))]
        for place in range(len(prompt), len(everything)):
            window = torch.tensor([everything[max(0, place - 16) : place]])
            logits = strict(window, documents=find_documents(window, END)).logits_BTV
            assert everything[place] == logits[0, -1].argmax()
        assert everything != across


def test_the_same_seed_draws_the_same_and_another_draws_otherwise() -> None:
    once, again, other = (tokens([5], 20, Sampling(seed=seed)) for seed in (1, 1, 2))
    assert once == again != other


def test_only_what_is_allowed_is_drawn() -> None:
    assert set(tokens([5], 60, Sampling(temperature=5.0), range(7, 12))) == set(range(7, 12))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_at_a_temperature(temperature: float) -> None:
    logits, generator = torch.tensor([0.3, -1.0, 1.2, 0.0]), torch.Generator().manual_seed(0)
    drawn = [draw(logits, Sampling(temperature), generator) for _ in range(4000)]
    shares = torch.tensor(drawn).bincount(minlength=4) / 4000
    torch.testing.assert_close(shares, (logits / temperature).softmax(0), atol=0.03, rtol=0)


@pytest.mark.parametrize("temperature", [1e-30, 1e-39, 1e-50, 5e-324])
def test_at_a_temperature_of_next_to_nothing_it_is_the_likeliest(temperature: float) -> None:
    logits = torch.tensor([-30.0, 29.9, 30.0, 0.0])
    assert draw(logits, Sampling(temperature), torch.Generator().manual_seed(0)) == 2


def test_the_nucleus_is_the_least_set_that_has_the_probability() -> None:
    logits, generator = torch.tensor([0.05, 0.4, 0.25, 0.3]).log(), torch.Generator().manual_seed(0)
    for top_p, kept in [(0.1, {1}), (0.4, {1}), (0.41, {1, 3}), (0.69, {1, 3}), (0.94, {1, 2, 3}), (1.0, {0, 1, 2, 3})]:
        assert {draw(logits, Sampling(1.0, top_p), generator) for _ in range(300)} == kept
