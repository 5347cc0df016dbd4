"""A stand-in for the GPU that Triton's autotuner asks about, so that real Triton kernels run in its CPU interpreter.

The driver doubles hardware that is not here, so it lives with the tests. Set TRITON_INTERPRET=1 before Triton is
imported, then call `install` before the first kernel.
"""

import types


def install() -> None:
    """Gives Triton a driver that says 1 ms of any kernel, without running it, and reports device 0."""
    from triton.runtime import driver

    def timed(*_, **__):
        return [1.0, 1.0, 1.0]

    driver.set_active(
        types.SimpleNamespace(
            get_benchmarker=lambda: timed,
            get_current_device=lambda: 0,
            get_current_target=lambda: types.SimpleNamespace(backend="cpu", arch=0, warp_size=1),
        )
    )
