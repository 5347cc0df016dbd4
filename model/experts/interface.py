"""What every implementation of the experts offers."""

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh


class Experts(nn.Module):
    """The experts of one layer, with parameters `mlp.w1`, `mlp.v1` and `mlp.w2` (see `weights.py`).

    Every token reaches every expert that it chose; none is dropped.
    """

    def forward(self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> tuple[Tensor, Tensor]:
        """Returns y_ND, the weighted sum of the chosen experts' outputs for each token, in the dtype of x_ND, and
        how many slots (token-expert pairs) the experts here have computed, counted where they compute: an int64 scalar
        on the device of x_ND. Without expert parallelism those are all of experts_NK, with it those that came here.

        experts_NK are distinct for a token. Differentiable with respect to x_ND, weights_NK and the parameters. With
        expert parallelism it is a collective: every rank of the mesh calls it, each with its own tokens.
        """
        raise NotImplementedError

    def parallelise(self, ep_mesh: DeviceMesh) -> None:
        """Shares the experts out over the ranks of a one-dimensional mesh; each keeps n_experts / ranks of them.

        The parameters become DTensors of the same names and shapes, sharded on dimension 0, so it comes before
        anything that holds on to them (FSDP2, an optimizer). `weights.py` tells what happens to their gradients.
        Raises ValueError if the ranks do not divide the experts.
        """
        raise NotImplementedError
