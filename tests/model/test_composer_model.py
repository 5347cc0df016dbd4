"""What Composer and the callbacks see: losses, statistics, the evaluation metric, and a real Trainer run."""

import copy
import math

import pytest
import torch
from composer import DataSpec, Evaluator, Trainer
from composer.loggers import InMemoryLogger
from torch.utils.data import DataLoader

from model.composer_model import DbrxComposerModel, MeanTokenLoss, next_token_targets
from model.config import AttentionConfig, ModelConfig
from model.ffn_config import FFNConfig
from model.head import IGNORED

END = 0
CONFIG = ModelConfig(
    d_model=32,
    n_heads=4,
    n_layers=2,
    max_seq_len=16,
    vocab_size=40,
    attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0),
    ffn_config=FFNConfig(ffn_hidden_size=16, moe_num_experts=4, moe_top_k=2, moe_loss_weight=0.05),
)


def _model() -> DbrxComposerModel:
    return DbrxComposerModel(CONFIG, ["web", "code", "math"], END, seed=1)


def _batch(sequences: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(1, 40, (sequences, 16), generator=generator)
    tokens[0, 10:] = END
    tokens[1, 5] = END
    return {"tokens": tokens, "domain": torch.arange(sequences) % 2 * 2}


def test_targets():
    tokens = torch.tensor([[7, END, 8, 9, END, END, END], [END, END, 5, END, END, 6, 7]])
    assert next_token_targets(tokens, END).tolist() == [
        [END, 8, 9, END, IGNORED, IGNORED, IGNORED],
        [IGNORED, 5, END, IGNORED, 6, 7, IGNORED],
    ]


def test_loss_is_the_mean_over_counted_targets():
    model, batch = _model(), _batch()
    outputs = model(batch)
    losses, total = model.losses(outputs, batch), model.loss(outputs, batch)["total"]
    logits = model.model(batch["tokens"]).logits_BTV
    targets = next_token_targets(batch["tokens"], END)
    torch.testing.assert_close(
        losses["cross_entropy"],
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED),
    )
    torch.testing.assert_close(total, losses["cross_entropy"] + losses["load_balancing"])
    assert 0.05 * 1.5 < losses["load_balancing"] < 0.05 * 4


def test_statistics_by_domain_layer_and_expert():
    model, batch = _model(), _batch()
    outputs = model(batch)
    losses = model.losses(outputs, batch)
    model.loss(outputs, batch)
    seen = model.step_statistics
    targets = next_token_targets(batch["tokens"], END)
    counted = (targets != IGNORED).sum(1)
    assert seen.samples == 6 and seen.samples_by_domain.tolist() == [3, 0, 3]
    assert seen.tokens_by_domain.tolist() == [counted[::2].sum(), 0, counted[1::2].sum()]
    torch.testing.assert_close(seen.loss_sum_by_domain[2], outputs.token_loss.loss_BT[1::2].sum().double())
    torch.testing.assert_close(seen.cross_entropy.float(), losses["cross_entropy"].detach())
    torch.testing.assert_close(seen.load_balancing.float(), losses["load_balancing"].detach())
    assert seen.tokens_by_layer_expert.tolist() == [r.tokens_per_expert_E.tolist() for r in outputs.routings]
    assert seen.tokens_by_layer_domain_expert.sum(2).tolist() == [[96, 0, 96]] * 2  # 3 samples, 16 tokens, 2 experts
    assert not any(value.requires_grad for value in vars(seen).values())


def test_routers_statistics_by_hand():
    """Of each token by itself, in fp64: the squared log-sum-exp of its logits and the entropy of their softmax."""
    model, batch = _model(), _batch()
    outputs = model(batch)
    model.loss(outputs, batch)
    seen = model.step_statistics
    for layer, routing in enumerate(outputs.routings):
        z = entropy = 0.0
        for logits in routing.logits_NE.tolist():
            total = sum(math.exp(logit) for logit in logits)
            z += math.log(total) ** 2
            entropy -= sum(math.exp(x) / total * math.log(math.exp(x) / total) for x in logits)
        assert seen.router_z_sum_by_layer[layer].item() == pytest.approx(z, rel=1e-5)
        assert seen.router_entropy_sum_by_layer[layer].item() == pytest.approx(entropy, rel=1e-5)
        assert seen.over_tokens(seen.router_entropy_sum_by_layer, 2)[layer].item() == pytest.approx(entropy / 96)
    assert seen.computed_by_layer.tolist() == [192, 192] and seen.dropped_by_layer.tolist() == [0, 0]


def test_a_router_that_is_sure_has_no_entropy_and_a_finite_log_sum():
    """The probabilities of the experts that it leaves aside are 0 in fp32."""
    model, batch = _model(), _batch()
    with torch.no_grad():
        for router in model.model.routers:
            router.layer.weight.mul_(1e5)
    outputs = model(batch)
    model.loss(outputs, batch)
    for layer, routing in enumerate(outputs.routings):
        assert not routing.probabilities_NE.all()
        z = routing.logits_NE.double().logsumexp(dim=-1).square().sum().item()
        assert model.step_statistics.router_z_sum_by_layer[layer].item() == pytest.approx(z, rel=1e-6)
        entropy = -(routing.probabilities_NE.double().xlogy(routing.probabilities_NE.double())).sum().item()
        assert model.step_statistics.router_entropy_sum_by_layer[layer].item() == pytest.approx(entropy, rel=1e-4)


def test_slots_that_no_expert_computes_are_counted():
    """Experts that leave the last token out, as experts with a capacity would."""
    model, batch = _model(), _batch()
    experts = model.model.transformer.blocks[1].ffn.experts
    whole = experts.forward

    def one_less(x_ND, weights_NK, experts_NK):
        y_ND, computed = whole(x_ND[:-1], weights_NK[:-1], experts_NK[:-1])
        return torch.cat([y_ND, torch.zeros(1, 32)]), computed

    experts.forward = one_less
    model.loss(model(batch), batch)
    assert model.step_statistics.dropped_by_layer.tolist() == [0, 2]


def test_statistics_of_microbatches_add_up_and_clear():
    whole, parts, batch = _model(), _model(), _batch()
    whole.loss(whole(batch), batch)
    for start in (0, 4):
        part = {key: value[start : start + 4] for key, value in batch.items()}
        parts.loss(parts(part), part)
    for name, value in vars(whole.step_statistics).items():
        if name != "load_balancing_sum":  # a microbatch's own
            torch.testing.assert_close(getattr(parts.step_statistics, name), value, rtol=1e-5, atol=0)
    torch.testing.assert_close(whole.step_statistics.cross_entropy, parts.step_statistics.cross_entropy)
    parts.begin_step()
    assert all(value.count_nonzero() == 0 for value in vars(parts.step_statistics).values())


def test_evaluation_metric_is_exact_over_uneven_batches():
    model, metric, batch = _model().eval(), MeanTokenLoss(), _batch()
    with torch.no_grad():
        for part in (slice(0, 1), slice(1, 6)):
            piece = {key: value[part] for key, value in batch.items()}
            model.update_metric(piece, model.eval_forward(piece), metric)
        expected = model.losses(model(batch), batch)["cross_entropy"]
    torch.testing.assert_close(metric.compute().float(), expected)
    assert model.get_metrics(is_train=True) == {} and list(model.get_metrics(is_train=False)) == ["loss"]


@pytest.mark.parametrize(
    ("domains", "end", "config", "sentence"),
    [
        ([], 0, CONFIG, "at least one domain"),
        (["web"], 40, CONFIG, "below 40, found 40"),
        (["web"], -1, CONFIG, "found -1"),
        (["web"], 0, ModelConfig(n_heads=7), "n_heads"),
    ],
)
def test_impossible_arguments(domains, end, config, sentence):
    with pytest.raises(ValueError, match=sentence):
        DbrxComposerModel(config, domains, end)


def test_sequence_longer_than_the_model():
    with pytest.raises(ValueError, match=r"max_seq_len \(16\).*found 17"):
        _model().model(torch.ones(1, 17, dtype=torch.int64))


def test_composer_trains_and_evaluates_it():
    model, log = _model(), InMemoryLogger()
    samples = [{key: value[i] for key, value in _batch(16).items()} for i in range(16)]
    loader = DataLoader(samples, batch_size=8)
    held_out = Evaluator(label="code", dataloader=DataLoader(samples[:6], batch_size=4))
    trainer = Trainer(
        model=model,
        train_dataloader=DataSpec(loader, get_num_samples_in_batch=lambda batch: len(batch["tokens"])),
        eval_dataloader=held_out,
        optimizers=torch.optim.AdamW(model.parameters(), lr=1e-2),
        device_train_microbatch_size=4,
        max_duration="4ep",
        loggers=[log],
        progress_bar=False,
        device="cpu",
    )
    before = copy.deepcopy(model.state_dict())
    trainer.fit()
    totals = [float(v) for _, v in log.data["loss/train/total"]]
    assert totals[-1] < totals[0] - 0.2
    assert model.step_statistics.samples == 64
    assert 0 < float(log.data["metrics/code/loss"][-1][1]) < totals[0]
    assert all(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    trainer.close()
