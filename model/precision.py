"""Autocast, for the autograd functions that we write ourselves and that it can't see into."""

import torch
from torch import Tensor


def as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the dtype that autocast gives matrix products on their device; unchanged where it is off."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which operations on the tensor's device run in the dtypes that they are given."""
    return torch.autocast(tensor.device.type, enabled=False)
