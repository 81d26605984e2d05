"""What loops of stock Ray Train share in benchmarks beside ours, as Ray's documentation shows it: run them, go on from a checkpoint, save."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK, BEGUN = "@stock ", "@stock begins at "


def fit(
    loop: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    folder: Path,
    workers: int | tuple[int, int],
    **failures: int,
) -> None:
    """Run a loop on workers, as Ray's documentation shows it, on the cluster that is there."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address="auto", logging_level="WARNING")
    TorchTrainer(
        loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=workers),
        run_config=RunConfig(
            name="stock",
            storage_path=str(folder),
            failure_config=FailureConfig(**failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    ).fit()


def restored(model: Any, optimizer: Any) -> int:
    """The step of Ray Train's last checkpoint, after which model and optimizer now are; 0 where there is none."""
    import torch
    from ray import train

    if (saved := train.get_checkpoint()) is None:
        step = 0
    else:
        with saved.as_directory() as place:
            state = torch.load(Path(place, "state.pt"), weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
    if train.get_context().get_world_rank() == 0:
        print(f"{BEGUN}{step}", flush=True)
    return step


def logged(step: int) -> None:
    """By rank 0."""
    from ray import train

    if train.get_context().get_world_rank() == 0:
        print(f"{MARK}{step}", flush=True)


def save(model: Any, optimizer: Any, step: int, loss: float) -> None:
    """Report a checkpoint of rank 0's; all ranks do."""
    import torch
    from ray import train

    with tempfile.TemporaryDirectory() as place:
        kept = None
        if train.get_context().get_world_rank() == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, Path(place, "state.pt"))
            kept = train.Checkpoint.from_directory(place)
        train.report({"loss": loss}, checkpoint=kept)
