"""Import and export hold a tensor or two at a time, however large the model."""

import json
import multiprocessing
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch

from launch.cli import main
from model.config import AttentionConfig, ModelConfig
from model.ffn_config import FFNConfig
from model.huggingface import to_huggingface
from model.parameters import parameter_shapes
from model.safetensors_folder import write_safetensors

MIB = 2**20
CONFIG = ModelConfig(
    d_model=256,
    n_heads=4,
    n_layers=24,
    vocab_size=4096,
    attn_config=AttentionConfig(kv_n_heads=2),
    ffn_config=FFNConfig(ffn_hidden_size=1024, moe_num_experts=4, moe_top_k=2),
)
SHAPES = parameter_shapes(CONFIG)
SIZE = sum(4 * shape.numel() for shape in SHAPES.values())


def memory(name: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most since `forget`; pages of mapped files count."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def child(arguments: list[str], answer: "SimpleQueue[tuple[int, int]]") -> None:
    torch.set_num_threads(1)  # OpenMP's threads did not come along in the fork, and would be waited for
    forget()
    before = memory("VmRSS")
    code = main(arguments)
    answer.put((code, memory("VmHWM") - before))


def peak(*arguments: str) -> int:
    """The most memory that the command takes, in a process of its own, beyond what it begins with."""
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    process = context.Process(target=child, args=(list(arguments), answer))
    process.start()
    process.join()
    code, grown = answer.get()
    assert code == 0
    print(f"{arguments[0]}: {grown / MIB:.0f} MiB for a model of {SIZE / MIB:.0f}")
    return grown


def write_folder(folder: Path) -> None:
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    dtypes = dict.fromkeys(SHAPES, torch.float32)
    write_safetensors(folder, SHAPES, dtypes, lambda name: torch.randn(SHAPES[name], generator=generator), SIZE // 3)
    (folder / "config.json").write_text(json.dumps(to_huggingface(CONFIG, "float32")))


def same_file(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def test_import_and_export_in_much_less_memory_than_the_model(tmp_path: Path) -> None:
    assert SIZE > 300 * MIB
    folder, checkpoint, again = (tmp_path / name for name in ("folder", "checkpoint", "again"))
    write_folder(folder)
    main(["import", str(tmp_path / "nothing"), str(tmp_path / "out")])  # imports what a child then has
    assert peak("import", str(folder), str(checkpoint)) < SIZE / 4
    assert peak("export", str(checkpoint), str(again), "--max-shard-size", f"{SIZE // 3}b") < SIZE / 4
    for path in folder.glob("model*"):
        assert same_file(path, again / path.name), path.name


def test_the_measure_sees_a_tensor_that_is_held() -> None:
    """Otherwise the test above could not fail."""
    forget()
    before = memory("VmRSS")
    held = torch.ones(64 * MIB // 4)
    assert memory("VmHWM") - before > 60 * MIB
    del held
