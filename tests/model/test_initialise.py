"""Initial weights follow from the seed, a parameter's name and the place in it alone."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from model.config import ModelConfig
from model.dbrx import DbrxForCausalLM
from model.ffn_config import FFNConfig
from model.initialise import initialise, materialise

CONFIG = ModelConfig(
    d_model=60,
    n_heads=6,
    n_layers=2,
    vocab_size=301,  # a prime: no number of ranks divides it
    ffn_config=FFNConfig(ffn_hidden_size=45, moe_num_experts=2),  # odd, so that the rows of an expert are uneven too
)
TIED = ModelConfig(
    d_model=32,
    n_heads=4,
    n_layers=1,
    vocab_size=50,
    ffn_config=FFNConfig(ffn_hidden_size=48, moe_num_experts=4),
    tie_word_embeddings=True,
)
LARGE = ModelConfig(d_model=512, n_heads=8, n_layers=1, vocab_size=2048)  # 4 chunks of 2**18 numbers in the embedding


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 rows, so that shards begin and end inside chunks."""
    monkeypatch.setattr("model.initialise._CHUNK_NUMBERS", 1000)


def _weights(seed: int, config: ModelConfig = CONFIG) -> dict[str, torch.Tensor]:
    return DbrxForCausalLM(config, seed).state_dict()


def _on_meta(config: ModelConfig = CONFIG) -> DbrxForCausalLM:
    with torch.device("meta"):
        return DbrxForCausalLM(config)


def _is_norm(name: str) -> bool:
    return name.split(".")[-2].startswith("norm_")


def _assert_same(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == expected.keys()
    different = [name for name, value in weights.items() if not torch.equal(value, expected[name])]
    assert not different


def test_same_seed_same_weights_whatever_the_global_generator():
    torch.manual_seed(1)
    first = _weights(7)
    torch.manual_seed(2)
    _assert_same(_weights(7), first)


def test_the_values_of_a_seed_stay():
    """Another value here means that every run from its recipe would now be another run."""
    weights = _weights(7)
    embedding, down = weights["transformer.wte.weight"], weights["transformer.blocks.1.ffn.experts.mlp.w2"]
    assert embedding[0, :3].tolist() == [0.036483313888311386, -0.023839900270104408, -0.026033947244286537]
    assert down[-1, -3:].tolist() == [0.019374631345272064, -0.005671970546245575, -0.005552119109779596]


def test_every_weight_changes_with_the_seed_and_differs_from_its_siblings():
    first, second = _weights(7), _weights(8)
    unchanged = {name for name in first if torch.equal(first[name], second[name])}
    assert unchanged == {name for name in first if _is_norm(name)}
    for one, other in combinations([value for name, value in first.items() if not _is_norm(name)], 2):
        if one.shape == other.shape:
            assert not torch.equal(one, other)


def test_neither_order_nor_threads_count(monkeypatch: pytest.MonkeyPatch, small_chunks: None):
    expected = _weights(7)
    model = _on_meta()
    materialise(model, "cpu")
    backwards = list(model.named_parameters())[::-1]
    monkeypatch.setattr(model, "named_parameters", lambda: iter(backwards))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    initialise(model, CONFIG, seed=7)
    _assert_same(model.state_dict(), expected)


def test_materialised_from_the_meta_device_it_is_the_same():
    model = _on_meta()
    assert all(parameter.is_meta for parameter in model.parameters())
    materialise(model, "cpu")
    assert all(parameter.isnan().all() for parameter in model.parameters())
    initialise(model, CONFIG, seed=7)
    _assert_same(model.state_dict(), _weights(7))


def test_blocks_that_are_recomputed_have_the_same_weights():
    model = _on_meta()
    materialise(model, "cpu")
    for number, block in enumerate(model.transformer.blocks):
        model.transformer.blocks[number] = checkpoint_wrapper(block)
    initialise(model, CONFIG, seed=7)
    _assert_same(model.state_dict(), _weights(7))


def test_in_bf16_it_is_the_same_rounded():
    model = _on_meta().bfloat16()
    materialise(model, "cpu")
    initialise(model, CONFIG, seed=7)
    _assert_same(model.state_dict(), {name: value.bfloat16() for name, value in _weights(7).items()})


def test_standard_deviations():
    for name, value in _weights(0).items():
        if _is_norm(name):
            assert torch.equal(value, torch.ones_like(value))
            continue
        expected = 0.02 / 2 if name.endswith(("out_proj.weight", "w2")) else 0.02  # sqrt(2 * 2 layers) = 2
        assert abs(value.std().item() / expected - 1) < 5 / (2 * value.numel()) ** 0.5, name


def test_a_weight_of_many_chunks_is_normal_and_its_chunks_are_independent():
    weights = _weights(0, LARGE)
    embedding, head = (weights[name] / 0.02 for name in ("transformer.wte.weight", "lm_head.weight"))
    n = embedding.numel()
    assert n == 4 * 2**18
    for values in (embedding, head):
        # Each within 5 standard errors of what a standard normal has.
        assert abs(values.mean()) < 5 / n**0.5
        assert abs(values.square().mean() - 1) < 5 * (2 / n) ** 0.5
        assert abs(values.pow(4).mean() - 3) < 5 * (96 / n) ** 0.5
        for limit, share in ((1.0, 0.682689), (2.0, 0.954500), (3.0, 0.997300)):
            assert abs((values.abs() < limit).double().mean() - share) < 5 * (share * (1 - share) / n) ** 0.5
    chunks = torch.cat([embedding, head]).view(8, -1)
    correlations = torch.corrcoef(chunks)[*torch.triu_indices(8, 8, 1)]
    assert correlations.abs().max() < 5 / 2**9


def test_tied_embeddings_are_one_parameter():
    model = DbrxForCausalLM(TIED)
    assert model.lm_head.weight is model.transformer.wte.weight
    model = _on_meta(TIED)
    materialise(model, "cpu")
    initialise(model, TIED, seed=7)
    assert model.lm_head.weight is model.transformer.wte.weight
    _assert_same(model.state_dict(), _weights(7, TIED))


class _Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.empty(3, dtype=torch.int64))
        self.register_buffer("scale", torch.empty(()), persistent=False)
        self.reset_buffers()

    def reset_buffers(self) -> None:
        self.counts.zero_()
        self.scale.fill_(0.5)


def test_buffers_get_their_values_and_stay_what_they_are():
    with torch.device("meta"):
        model = nn.Sequential(_Counter())
    materialise(model, "cpu")
    assert model[0].counts.tolist() == [0, 0, 0]
    assert model[0].scale.item() == 0.5
    assert list(model.state_dict()) == ["0.counts"]
    model[0].counts += 1
    materialise(model, "cpu")  # what has memory keeps its values
    assert model[0].counts.tolist() == [1, 1, 1]


def test_a_buffer_that_nobody_sets_is_refused():
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm1d(2))
    with pytest.raises(TypeError, match=r"BatchNorm1d has buffers \(running_mean, .*\) but no reset_buffers"):
        materialise(model, "cpu")


def _blocks_and_all(model: DbrxForCausalLM) -> Iterator[nn.Module]:
    yield from (module for module in model.modules() if model.fsdp_wrap_fn(module))
    yield model


def _shard_fully(model: DbrxForCausalLM, ranks: int) -> None:
    for module in list(_blocks_and_all(model)):
        fully_shard(module, mesh=init_device_mesh("cpu", (ranks,)))


def _shard_with_replicas(model: DbrxForCausalLM, ranks: int) -> None:
    mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("replicate", "shard"))
    for module in list(_blocks_and_all(model)):
        fully_shard(module, mesh=mesh)


def _shard_by_expert(model: DbrxForCausalLM, ranks: int) -> None:
    """Experts over the axis ep, each of them over efsdp; all else over all ranks."""
    mesh = init_device_mesh("cpu", (ranks // 2, 2), mesh_dim_names=("efsdp", "ep"))
    for block in model.transformer.blocks:
        experts = block.ffn.experts
        experts.parallelise(mesh["ep"])
        fully_shard(experts, mesh=mesh["efsdp"])
    _shard_fully(model, ranks)


def _shard_columns(model: DbrxForCausalLM, ranks: int) -> None:
    """By hand, on the second dimension where there is one."""
    mesh = init_device_mesh("cpu", (ranks,))
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            placement = Shard(1) if weight.ndim == 2 else Replicate()
            module.register_parameter(name, nn.Parameter(distribute_tensor(weight, mesh, [placement])))


SHARDINGS = {"fsdp": _shard_fully, "hsdp": _shard_with_replicas, "ep": _shard_by_expert, "columns": _shard_columns}


def _rank(rank: int, ranks: int, shardings: list[str], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=dist.FileStore(str(folder / "store"), ranks))
    for sharding in shardings:
        for kind, config in (("untied", CONFIG), ("tied", TIED)):
            if sharding == "columns" and kind == "tied":
                continue  # replacing parameters by hand would untie them
            model = _on_meta(config)
            SHARDINGS[sharding](model, ranks)
            materialise(model, "cpu")
            initialise(model, config, seed=7)
            assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
            assert (model.lm_head.weight is model.transformer.wte.weight) == (kind == "tied")
            weights = {name: value.full_tensor() for name, value in model.state_dict().items()}
            torch.save(weights, folder / f"{sharding}-{kind}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("ranks", "shardings"),
    [(1, ["fsdp"]), (2, ["fsdp", "ep", "columns"]), (3, ["fsdp", "columns"]), (4, ["fsdp", "hsdp", "ep"])],
)
def test_any_sharding_has_the_weights_of_one_process(
    ranks: int, shardings: list[str], tmp_path: Path, small_chunks: None
):
    expected = {"untied": _weights(7), "tied": _weights(7, TIED)}
    mp.start_processes(_rank, args=(ranks, shardings, tmp_path), nprocs=ranks, start_method="fork")
    files = sorted(tmp_path.glob("*.pt"))
    assert len(files) == ranks * sum(1 if sharding == "columns" else 2 for sharding in shardings)
    for file in files:
        _assert_same(torch.load(file), expected[file.name.split("-")[1]])
