"""The implementations of attention against each other, and documents against each run alone."""

from dataclasses import replace

import pytest
import torch

from model import attention_functions
from model.attention_functions import attention_function, flex, one_by_one
from model.composer_model import DbrxComposerModel, next_token_targets
from model.config import AttentionConfig, AttentionImplementation, ModelConfig
from model.dbrx import DbrxForCausalLM
from model.documents import find_documents
from model.ffn_config import FFNConfig
from model.head import IGNORED
from model.router import load_balancing_loss

from flash_attn_double import flash_attn  # noqa: F401, a fixture

END = 0
IMPLEMENTATIONS = list(AttentionImplementation)
CONFIG = ModelConfig(
    d_model=32,
    n_heads=4,
    n_layers=2,
    max_seq_len=40,
    vocab_size=50,
    attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0),
    ffn_config=FFNConfig(ffn_hidden_size=16, moe_num_experts=4, moe_top_k=2, moe_loss_weight=0.0),
    initializer_range=0.2,
    attend_across_documents=False,
)


def _tokens() -> torch.Tensor:
    """Documents of many lengths: one of a whole sample, one of its end alone, and padding."""
    tokens = torch.randint(1, 50, (4, 40), generator=torch.Generator().manual_seed(2))
    for b, t in [(0, 5), (0, 6), (0, 30), (1, 0), (1, 20), (1, 39), (3, 11)]:
        tokens[b, t] = END
    tokens[3, 33:] = END
    return tokens


def _heads(dtype=torch.float32, length=40):
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, length, heads, 16) for heads in (4, 2, 2)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def _relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.usefixtures("flash_attn")
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "across"])
@pytest.mark.parametrize("name", ["sdpa", "flash_attention_2"])
def test_implementations_give_what_the_reference_gives(name, strict):
    documents = find_documents(_tokens(), END) if strict else None
    heads = _heads()
    wanted = attention_function(AttentionImplementation.eager)(*heads, documents, 0.0)
    got = attention_function(AttentionImplementation[name])(*heads, documents, 0.0)
    assert _relative(got, wanted) < 1e-6
    upstream = torch.randn_like(wanted)
    for mine, other in zip(*(torch.autograd.grad(y, heads, upstream) for y in (got, wanted)), strict=True):
        assert _relative(mine, other) < 1e-6


@pytest.mark.parametrize("length", [40, 300])
def test_flex_attention_sees_the_same_mask(length):
    """Forward only: on a CPU it has no backward pass. The GPU's is tested below."""
    tokens = torch.randint(40, (4, length), generator=torch.Generator().manual_seed(2))
    documents = find_documents(tokens, END)
    with torch.no_grad():
        heads = [x.detach() for x in _heads(length=length)]
        assert _relative(flex(*heads, documents), one_by_one(*heads, documents, 0.0)) < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: FlexAttention compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex_attention_on_a_gpu(dtype):
    tokens = torch.randint(100, (4, 1000), generator=torch.Generator().manual_seed(2))
    documents = find_documents(tokens.cuda(), END)
    heads = [x.detach().to("cuda", dtype).requires_grad_() for x in _heads(length=1000)]
    got, wanted = flex(*heads, documents), one_by_one(*heads, documents, 0.0)
    limit = 1e-2 if dtype is torch.bfloat16 else 5e-3  # TF32 inside the fp32 kernels
    assert _relative(got, wanted) < limit
    upstream = torch.randn_like(wanted)
    for mine, other in zip(*(torch.autograd.grad(y, heads, upstream) for y in (got, wanted)), strict=True):
        assert _relative(mine, other) < limit


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: which of its kernels is taken")
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "across"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_on_a_gpu_does_not_grow_with_the_square(dtype, strict):
    length = 16_384
    documents = find_documents(torch.randint(3000, (1, length), device="cuda"), END) if strict else None
    heads = [x.detach()[:1].to("cuda", dtype).requires_grad_() for x in _heads(length=length)]
    torch.cuda.reset_peak_memory_stats()
    attention_functions.sdpa(*heads, documents, 0.0).sum().backward()
    assert torch.cuda.max_memory_allocated() < length**2  # bytes; one head's weights are 2 or 4 times as many


def _documents_alone(tokens: torch.Tensor) -> list[torch.Tensor]:
    """The rule in plain Python: a document ends with its end_of_text; a run of more of them is one document."""
    found: list[list[int]] = []
    for sample in tokens.tolist():
        for place, token in enumerate(sample):
            goes_on_padding = sample[max(0, place - 2) : place + 1] == [END] * 3
            if place == 0 or (sample[place - 1] == END and not goes_on_padding):
                found.append([])
            found[-1].append(token)
    return [torch.tensor([document]) for document in found]


@pytest.mark.usefixtures("flash_attn")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_model_equals_a_loop_over_its_documents(implementation):
    tokens = _tokens()
    config = replace(CONFIG, attn_implementation=implementation)
    packed, alone = DbrxComposerModel(config, ["web"], END, seed=1), DbrxForCausalLM(CONFIG, seed=1)
    output = packed({"tokens": tokens, "domain": torch.zeros(4, dtype=torch.int64)})
    documents = _documents_alone(tokens)
    assert sorted(len(d[0]) for d in documents) == [1, 1, 6, 6, 9, 12, 19, 20, 22, 24, 40]
    losses, counted = [], 0
    for document in documents:
        targets = next_token_targets(document, END)
        counted += (targets != IGNORED).sum()
        out = alone(document, targets)
        losses.append(out.token_loss.mean * (targets != IGNORED).sum())
    loss = torch.stack(losses).sum() / counted
    assert _relative(output.token_loss.mean, loss) < 1e-6
    output.token_loss.mean.backward(), loss.backward()
    for (name, mine), other in zip(packed.model.named_parameters(), alone.parameters(), strict=True):
        assert _relative(mine.grad, other.grad) < 1e-5, name
    logits = packed.model(tokens, documents=find_documents(tokens, END)).logits_BTV
    expected = torch.cat([alone(document).logits_BTV for document in documents], dim=1)
    assert _relative(logits.flatten(0, 1), expected[0]) < 1e-5


def test_across_documents_they_are_not_equal():
    """Or else the test above would say nothing."""
    tokens = _tokens()
    model = DbrxForCausalLM(CONFIG, seed=1)
    across, strict = model(tokens).logits_BTV, model(tokens, documents=find_documents(tokens, END)).logits_BTV
    assert _relative(across[0, :6], strict[0, :6]) < 1e-5 and _relative(across[0, 7:], strict[0, 7:]) > 0.01
    assert _relative(across[2], strict[2]) < 1e-5  # a document of a whole sample


def test_targets_beyond_a_documents_end_are_not_counted():
    tokens = torch.tensor([[7, END, 8, 9, END, END, END], [END, END, 5, END, END, 6, 7]])
    assert next_token_targets(tokens, END, across_documents=False).tolist() == [
        [END, IGNORED, 9, END, IGNORED, IGNORED, IGNORED],
        [IGNORED, IGNORED, END, IGNORED, IGNORED, 7, IGNORED],
    ]


@pytest.mark.usefixtures("flash_attn")
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "across"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_dropout_on_the_attention_weights(implementation, strict):
    """With values of one, a position's output is the sum of what dropout left of its weights: 1 on average, and over
    many draws of the variance p / (1 - p) * sum of squared weights. Nothing crosses a document's end."""
    tokens = _tokens()[:1]
    documents = find_documents(tokens, END) if strict else None
    attend = attention_function(implementation)
    q, k, v = (x.detach()[:1] for x in _heads())
    draws = torch.stack([attend(q, k, torch.ones_like(v), documents, 0.25) for _ in range(600)])
    eye = torch.eye(40)[None, :, None, :].expand(1, 40, 2, 40)
    weights = attend(q, k, eye, documents, 0.0)  # [1, T, H, T]
    deviation = (0.25 / 0.75 * weights.square().sum(-1)).sqrt()[..., None]
    assert ((draws.mean(0) - 1).abs() < 6 * deviation / 600**0.5).all()
    torch.testing.assert_close(draws.std(0), deviation.expand_as(draws[0]), rtol=0.2, atol=1e-6)
    dropped = attend(q, k, eye, documents, 0.25)
    assert (dropped[weights == 0] == 0).all() and (dropped == 0)[weights > 0].float().mean() == pytest.approx(
        0.25, abs=0.03
    )


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "across"])
def test_dropout_in_training_only(strict):
    config = replace(
        CONFIG, attn_config=AttentionConfig(kv_n_heads=2, attn_pdrop=0.3), attend_across_documents=not strict
    )
    model = DbrxForCausalLM(config, seed=1)
    tokens = _tokens()
    documents = find_documents(tokens, END) if strict else None
    evaluated, again = (model.eval()(tokens, documents=documents).logits_BTV for _ in range(2))
    trained, other = (model.train()(tokens, documents=documents).logits_BTV for _ in range(2))
    assert torch.equal(evaluated, again) and not torch.equal(trained, other)
    load_balancing_loss(model(tokens, documents=documents).routings).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("on_gpu", "dropout_p", "channels", "expected"),
    [
        (True, 0.0, 16, "flex"),
        (True, 0.1, 16, "one_by_one"),
        (True, 0.0, 8, "one_by_one"),
        (False, 0.0, 16, "one_by_one"),
    ],
)
def test_which_kernel_sdpa_takes(on_gpu, dropout_p, channels, expected, monkeypatch):
    class Heads:
        """A stand-in for queries on a GPU: all that the choice looks at."""

        is_cuda, shape = on_gpu, (1, 40, 4, channels)

    taken = []
    for name in ("flex", "one_by_one"):
        monkeypatch.setattr(attention_functions, name, lambda *_, name=name: taken.append(name))
    attention_functions.sdpa(Heads(), None, None, find_documents(_tokens(), END), dropout_p)
    assert taken == [expected]
