"""Memory for a model that was built without any, and initial weights that don't depend on how it is spread over ranks.

A model of any size is built under `torch.device("meta")`, sharded, given memory by `materialise` and drawn by
`initialise`. A rank then holds its own shards and, while it draws, one chunk of numbers for each thread.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from model.config import ModelConfig

_CHUNK_NUMBERS = 2**18  # 1 MiB of fp32. Another size would give other weights.
_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")  # what activation checkpointing and compiling add to names


@torch.no_grad()
def materialise(model: nn.Module, device: torch.device | str) -> None:
    """Gives parameters and buffers that are on the meta device memory on `device`, and moves other buffers there.

    Of a sharded parameter (DTensor) that is this rank's shard alone. Parameters are nan until they are drawn or loaded:
    one that is forgotten can't go unseen. Tied parameters stay tied. A module that has buffers says what they hold at
    the beginning in a method `reset_buffers()`, which is called here; raises TypeError if there is none.
    """
    for parameter in model.parameters():
        if parameter.is_meta:
            real = torch.empty_like(parameter, device=device).fill_(float("nan"))
            # The modules that share a parameter, and FSDP2, hold on to the object: it stays, with other contents.
            torch.utils.swap_tensors(parameter, nn.Parameter(real, parameter.requires_grad))
    for module in model.modules():
        _materialise_buffers(module, device)


def _materialise_buffers(module: nn.Module, device: torch.device | str) -> None:
    """Of the module itself, not of its children."""
    buffers = dict(module.named_buffers(recurse=False))
    for name, buffer in buffers.items():
        setattr(module, name, torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device))
    if any(buffer.is_meta for buffer in buffers.values()):
        reset = getattr(module, "reset_buffers", None)
        if reset is None:
            raise TypeError(f"{type(module).__name__} has buffers ({', '.join(buffers)}) but no reset_buffers()")
        reset()


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Draws each parameter of `model`, or this rank's shard of it, as `seed` and the parameter's name say.

    Weights are normal(0, initializer_range). Those that write to the residual stream (`out_proj`, `w2`) are drawn
    smaller by sqrt(2 * n_layers), so that the stream's variance does not grow with depth (GPT-2; transformers' DBRX has
    no such scaling). Norms start at 1.

    A weight is cut into chunks of whole rows. Each has a counter-based generator of its own (Philox, Salmon et al.,
    SC 2011), whose key is 128 bits of a hash of seed, name and chunk number. So the values are the same, bit for bit,
    on any number of ranks, in any sharding and in any order, and a rank draws only the chunks that its shard touches.
    They are drawn on the CPU in fp32, whatever the device, on as many threads as torch has.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for name, parameter in model.named_parameters():
            for wrapper in _WRAPPERS:
                name = name.replace(wrapper, "")
            std = _standard_deviation(name, config)
            if std == 0:
                parameter.fill_(1.0)
                continue
            shard = _Shard(parameter, f"{seed}:{name}", std)
            list(threads.map(shard.draw, shard.chunks))  # a list, so that an error in a thread is raised here


def _standard_deviation(name: str, config: ModelConfig) -> float:
    """Of the parameter with this name; 0 for the constant weight of a norm."""
    module, own = name.split(".")[-2:]
    if module.startswith("norm_"):
        return 0.0
    if module == "out_proj" or "w2" in (module, own):
        return config.initializer_range / (2 * config.n_layers) ** 0.5
    return config.initializer_range


class _Shard:
    """The part of a weight that this rank holds, and the chunks of the whole weight that it touches."""

    def __init__(self, parameter: Tensor, key: str, std: float) -> None:
        self.key, self.std = key, std
        self.shape = parameter.shape  # of the whole weight
        self.values, self.offset = parameter.detach(), (0,) * parameter.ndim
        if isinstance(parameter, DTensor):
            self.values = parameter.to_local().detach()
            _, self.offset = compute_local_shape_and_global_offset(
                parameter.shape, parameter.device_mesh, parameter.placements
            )
        self.chunk_rows = max(1, _CHUNK_NUMBERS // self.shape[1:].numel())

    @property
    def chunks(self) -> range:
        """Numbers of the chunks that hold any of its rows."""
        if self.values.numel() == 0:
            return range(0)
        last_row = self.offset[0] + len(self.values) - 1
        return range(self.offset[0] // self.chunk_rows, last_row // self.chunk_rows + 1)

    def draw(self, chunk: int) -> None:
        """Draws a chunk and keeps those of its numbers that are in the shard."""
        first = chunk * self.chunk_rows
        rows = min(self.chunk_rows, self.shape[0] - first)
        key = hashlib.blake2b(f"{self.key}:{chunk}".encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        numbers = torch.from_numpy(generator.standard_normal((rows, *self.shape[1:]), dtype=np.float32)).mul_(self.std)
        for dim in range(1, self.values.ndim):
            numbers = numbers.narrow(dim, self.offset[dim], self.values.shape[dim])
        begin = max(first, self.offset[0])
        end = min(first + rows, self.offset[0] + len(self.values))
        self.values[begin - self.offset[0] : end - self.offset[0]] = numbers[begin - first : end - first]
