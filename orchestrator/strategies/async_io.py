"""DeepSpeed's async I/O, which NVMe offload needs: compiled at first use, which takes minutes."""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path

from orchestrator.errors import InfrastructureError, SpecError

log = logging.getLogger(__name__)


def load_async_io() -> None:
    """Compile it once on this machine, or wait while another process does, and load it.

    Raises:
        SpecError: libaio's headers or the compiler are missing.
        InfrastructureError: it does not compile.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder
    from torch.utils.cpp_extension import get_default_build_root

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise SpecError(
            "strategy.offload: nvme needs async I/O, and DeepSpeed finds no libaio here (package libaio-dev or libaio-devel"
            " and a C++ compiler); use cpu, or an image that has it"
        )
    root = Path(get_default_build_root())
    root.mkdir(parents=True, exist_ok=True)
    with (root / "trainwright-async-io.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # PyTorch's own locks outlive a process that is killed while it compiles, and then hold everybody up for ever;
        # who holds ours knows that nobody compiles
        for left in root.glob("*/*/lock"):
            if left.parent.name in ("async_io", "pin_memory"):
                left.unlink(missing_ok=True)
        if not any(root.glob("*/async_io/async_io.so")):
            log.info(
                "compiling DeepSpeed's async I/O for NVMe offload, once on this machine; this takes minutes"
            )
        try:
            AsyncIOBuilder().load(verbose=False)
        except (RuntimeError, OSError) as error:
            last = str(error).strip().splitlines()[-1]
            raise InfrastructureError(
                f"strategy.offload: DeepSpeed's async I/O for nvme does not compile here ({last}); use offload to cpu"
            ) from error
