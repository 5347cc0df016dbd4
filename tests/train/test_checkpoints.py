"""Checkpoints: the same tensors on any number of ranks, no code of a stranger, and which of them stay."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from composer.core import Precision
from torch.distributed.tensor import DTensor

from model.composer_model import DbrxComposerModel
from model.config import AttentionConfig, ModelConfig
from model.ffn_config import FFNConfig
from model.initialise import initialise, materialise
from train.checkpoints.checksums import checksum_of, quick_damage, read_checksums, write_checksums
from train.checkpoints.names import newest_checkpoint, remove, set_aside, steps_of, whole_checkpoints
from train.checkpoints.retention import Retention
from train.checkpoints.safe_reader import SafeReader, load_tensors
from train.checkpoints.size import checkpoint_bytes
from train.checkpoints.tensors import HostCopy, tensors_of
from train.checkpoints.writing import Snapshot, write_checkpoint
from train.errors import RecipeError
from train.layout import Layout
from train.optim import build_optimizer
from train.parallel import shard
from train.recipe import OptimizerConfig

CONFIG = ModelConfig(
    d_model=32,
    n_heads=4,
    n_layers=2,
    vocab_size=50,
    attn_config=AttentionConfig(kv_n_heads=2),
    ffn_config=FFNConfig(ffn_hidden_size=16, moe_num_experts=4, moe_top_k=2, moe_bias_update_rate=0.001),
)
Trained = tuple[DbrxComposerModel, torch.optim.Optimizer]


def _build(seed: int, layout: Layout) -> Trained:
    model = DbrxComposerModel(CONFIG, ["web"], 0, device="meta")
    shard(model, Precision.FP32, layout=layout)
    materialise(model, "cpu")
    initialise(model.model, CONFIG, seed)
    return model, build_optimizer(model, OptimizerConfig(lr=0.1))


def _train(trained: Trained, steps: int) -> None:
    model, optimizer = trained
    for step in range(steps):
        tokens = (torch.arange(24).view(2, 12) * (7 + step)) % 50
        model.model(tokens, tokens).token_loss.mean.backward()
        optimizer.step()
        optimizer.zero_grad()


def _whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).clone() for name, t in tensors.items()}


def _rank(rank: int, layout: Layout, folder: Path, action: Callable[[Path, Layout], None]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), layout.ranks)
    dist.init_process_group("gloo", rank=rank, world_size=layout.ranks, store=store)
    action(folder.parent, layout)
    dist.destroy_process_group()


def _on(layout: Layout, folder: Path, action: Callable[[Path, Layout], None]) -> None:
    place = folder / f"{action.__name__}-{layout}"
    place.mkdir()
    mp.start_processes(_rank, args=(layout, place, action), nprocs=layout.ranks, start_method="fork")


def _save(folder: Path, layout: Layout) -> None:
    trained = _build(1, layout)
    _train(trained, 2)
    tensors, copies = tensors_of(*trained), HostCopy()
    expected = _whole(tensors)
    rest = sum(tensor.nbytes for tensor in expected.values()) - checkpoint_bytes(CONFIG)  # counts of steps, and biases
    assert 0 <= rest < 1000
    copied = copies.of(tensors)()
    snapshot = Snapshot(2, tensors, lambda: copied, lambda checkpoint: None)
    _train(trained, 1)  # what is saved is the run before this step
    group = dist.new_group(backend="gloo")
    write_checkpoint(folder / "checkpoints", snapshot, group)
    if dist.get_rank() == 0:
        torch.save(expected, folder / "expected.pt")


def _load(folder: Path, layout: Layout) -> None:
    trained = _build(2, layout)
    [checkpoint] = [newest_checkpoint(folder / "checkpoints")]
    assert checkpoint is not None
    load_tensors(SafeReader(checkpoint), tensors_of(*trained))
    found, expected = _whole(tensors_of(*trained)), torch.load(folder / "expected.pt")
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in found)
    assert all(float(tensor) == 2 for name, tensor in found.items() if name.endswith(".step"))
    assert sum(name.endswith(".exp_avg_sq") and tensor.abs().sum() > 0 for name, tensor in found.items()) > 10
    _train(trained, 1)
    assert all(float(state["step"]) == 3 for state in trained[1].state.values())


ONE, TWO, EXPERTS = Layout(1, 1, 1), Layout(1, 2, 1), Layout(1, 2, 2)
REPLICAS = Layout(2, 1, 2)  # replicate, efsdp, ep


@pytest.mark.parametrize(("saved_on", "loaded_on"), [(ONE, [REPLICAS]), (EXPERTS, [ONE, TWO]), (REPLICAS, [EXPERTS])])
def test_tensors_are_the_same_on_any_layout(tmp_path: Path, saved_on: Layout, loaded_on: list[Layout]) -> None:
    """Model and optimizer, and what was trained since they were copied is not in them."""
    _on(saved_on, tmp_path, _save)
    sums = read_checksums(tmp_path / "checkpoints" / "ba00000002")
    assert {f"__{rank}_0.distcp" for rank in range(saved_on.ranks)} | {".metadata"} == sums.keys()
    for name, known in sums.items():  # as they were written, and as they are
        assert checksum_of(tmp_path / "checkpoints" / "ba00000002" / name) == known
    for layout in loaded_on:
        _on(layout, tmp_path, _load)


class Harm:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_tensor_is_not_opened(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    dcp.save({"good": torch.ones(3), "bad": Harm(harm)}, checkpoint_id=tmp_path / "checkpoint", no_dist=True)
    reader = SafeReader(tmp_path / "checkpoint")
    good = torch.zeros(3)
    load_tensors(reader, {"good": good}, no_dist=True)
    assert good.sum() == 3
    with pytest.raises(RecipeError, match=r"bad: the model asks for \[3\], found nothing"):
        load_tensors(reader, {"bad": torch.zeros(3)}, no_dist=True)
    # One that says that it is a tensor, and is none; torch reads it as far as it takes to see that.
    entries = reader.read_metadata().state_dict_metadata
    entries["bad"] = entries["good"]
    storage = reader.read_metadata().storage_data
    bad = next(index for index in storage if index.fqn == "bad")
    good_index = next(index for index in storage if index.fqn == "good")
    storage[good_index] = storage[bad]
    with pytest.raises(RecipeError, match="is damaged"):
        load_tensors(reader, {"good": torch.zeros(3)}, no_dist=True)
    assert not harm.exists()


def test_an_index_that_asks_for_code_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    with pytest.raises(RecipeError, match="which no checkpoint needs; it is not opened"):
        SafeReader(tmp_path)
    assert not (tmp_path / "harm").exists()


def _made_up(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoint = folder / f"ba{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "__0_0.distcp").write_bytes(bytes(range(100)))
        (checkpoint / "state.json").write_text("{}")
        write_checksums(checkpoint, {})


def test_a_quick_look_finds_all_but_damaged_tensors(tmp_path: Path) -> None:
    _made_up(tmp_path, 1)
    checkpoint = tmp_path / "ba00000001"
    assert quick_damage(checkpoint) is None
    (checkpoint / "state.json").write_text("[]")
    assert "state.json is not what was written" in str(quick_damage(checkpoint))
    (checkpoint / "state.json").write_text("{}")
    (checkpoint / "__0_0.distcp").write_bytes(bytes(99))
    assert "__0_0.distcp has 99 bytes, written were 100" in str(quick_damage(checkpoint))
    (checkpoint / "__0_0.distcp").unlink()
    assert "can't be read (No such file" in str(quick_damage(checkpoint))
    for content in ("", "[]", "{}", '{"version": 1, "files": {"a": {}}}', '{"version": 9}'):
        (checkpoint / "checksums.json").write_text(content)
        assert "checksums.json" in str(quick_damage(checkpoint))


def test_the_newest_one_before_a_step(tmp_path: Path) -> None:
    _made_up(tmp_path, 4, 8, 99_999_999, 100_000_000)
    assert newest_checkpoint(tmp_path) == tmp_path / "ba100000000"
    assert newest_checkpoint(tmp_path, at_or_before=9) == tmp_path / "ba00000008"
    assert newest_checkpoint(tmp_path, at_or_before=8) == tmp_path / "ba00000008"
    assert newest_checkpoint(tmp_path, at_or_before=3) is None
    (tmp_path / "ba00000008" / "__0_0.distcp").unlink()
    assert newest_checkpoint(tmp_path, at_or_before=9) == tmp_path / "ba00000004"
    remove(tmp_path / "ba100000000")
    set_aside(tmp_path / "ba99999999")
    assert newest_checkpoint(tmp_path) == tmp_path / "ba00000004"
    assert {path.name for path in tmp_path.iterdir()} == {"ba00000004", "ba00000008", ".damaged-ba99999999"}


def test_a_folder_of_the_users_is_no_checkpoint(tmp_path: Path) -> None:
    _made_up(tmp_path, 4)
    for name in ("ba00000100.bak", "ba00000100 copy", "ba", "bash"):
        (tmp_path / name).mkdir()
    assert newest_checkpoint(tmp_path) == tmp_path / "ba00000004"


def test_which_stay(tmp_path: Path) -> None:
    assert Retention(2).superseded([4, 8, 12, 16]) == [4, 8]
    assert Retention(1, keep_every=8).superseded([4, 8, 12, 16, 20]) == [4, 12]
    assert Retention(9).superseded([4, 8]) == []
    _made_up(tmp_path, 4, 8, 12, 16)
    Retention(1, keep_every=8).apply(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"ba00000008", "ba00000016"}


def test_what_was_written_to_stay_for_ever_stays(tmp_path: Path) -> None:
    """`keep_every` in samples, tokens or parts of the run comes to other steps when the recipe's batch changes."""
    _made_up(tmp_path, 4, 8, 12, 16)
    for checkpoint in whole_checkpoints(tmp_path):
        Retention(1, keep_every=8).mark(checkpoint, steps_of(checkpoint))
    for changed in (Retention(1, keep_every=5), Retention(1)):
        changed.apply(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"ba00000008", "ba00000016"}
