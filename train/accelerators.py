"""The peak rate of matrix products on current accelerators."""

from __future__ import annotations

import re
from typing import NamedTuple


class Peak(NamedTuple):
    """Dense TFLOP/s, a multiply and an add counted as two, without structured sparsity."""

    bf16: float  # accumulated in fp32
    fp32: float  # in TF32 where the tensor cores have it, for Composer allows that


# By words of the name that torch.cuda.get_device_name gives; the first that fits counts. Data sheets and white papers
# of NVIDIA and AMD, which often print twice as much, "with sparsity".
PEAKS = (
    ("GB300|GB200", Peak(2500, 1250)),  # GB200 and GB300 NVL72, per GPU
    ("B300", Peak(2250, 1125)),  # HGX B300, an eighth
    ("B200", Peak(2250, 1100)),  # HGX B200, an eighth; Blackwell Architecture Technical Brief
    ("H200 NVL|H100 NVL", Peak(835, 417)),  # H200 and H100 data sheets
    ("H100 PCIe|H100 80GB HBM2e|H800 PCIe", Peak(756, 378)),
    ("GH200|H200|H100|H800", Peak(989, 494)),
    ("H20", Peak(148, 74)),
    ("A100|A800", Peak(312, 156)),  # Ampere A100 white paper
    ("A30", Peak(165, 82)),
    ("A40", Peak(149.7, 74.8)),
    ("A10", Peak(125, 62.5)),
    ("A10G", Peak(70, 35)),  # AWS's own
    ("RTX A6000", Peak(154.8, 77.4)),  # Ampere GA102 white paper
    ("RTX 3090$", Peak(71, 35.6)),
    ("L40S", Peak(362, 183)),
    ("L40", Peak(181, 90.5)),
    ("L4", Peak(121, 60)),
    ("RTX 6000 Ada", Peak(364, 182)),  # Ada Lovelace white paper
    ("RTX 4090$", Peak(165.2, 82.6)),
    ("RTX 5090$", Peak(209.5, 104.8)),  # RTX Blackwell white paper
    ("MI355X", Peak(2516, 157.3)),  # AMD Instinct data sheets
    ("MI350X", Peak(2307, 144.2)),
    ("MI300X|MI325X", Peak(1307, 653.7)),
    ("MI250X", Peak(191.5, 47.9)),  # one of its two dies, which is what torch calls a device
)


def peak_flops(device: str, precision: str) -> float | None:
    """FLOP/s of one device, by the name that torch.cuda gives it; precision is the recipe's, `bf16` or `fp32`.

    None where the device is not known, or is a part of one (MIG), whose share is not.
    """
    if re.search(r"\bMIG\b", device):
        return None
    for names, peak in PEAKS:
        if re.search(rf"\b({names})\b", device):
            return 1e12 * getattr(peak, precision)
    return None
