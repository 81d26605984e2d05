"""What a device can do at most: the denominator of model FLOP utilization."""

from __future__ import annotations

import re

PEAK_TFLOPS = {
    "GB300": 2500.0,
    "GB200": 2500.0,
    "B300": 2500.0,
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
}
"""Dense 16-bit tensor-core peak of one device by a part of its name, from NVIDIA's data sheets (TFLOP/s)."""


def peak_tflops(device_name: str) -> float | None:
    """The peak of a device as torch names it; None where it is not known, or only a slice of a device (MIG).

    Names match by whole words, the longest first: an L40 is no L4, and an H100 NVL no H100.
    """
    if re.search(r"\bMIG\b", device_name):
        return None
    for part in sorted(PEAK_TFLOPS, key=len, reverse=True):
        if re.search(rf"\b{re.escape(part)}\b", device_name):
            return PEAK_TFLOPS[part]
    return None
