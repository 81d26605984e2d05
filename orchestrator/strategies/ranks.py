"""Several ranks on this machine, joined by gloo, without Ray: for ``verify``, the tests and the benchmarks."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.errors import InfrastructureError, TrainwrightError


class Ranks:
    """Worker processes of one process group, kept for several calls.

    ``run`` calls a function on every rank at once, with torch.distributed initialized. The function and what
    it takes and returns are pickled, so it must be importable.
    """

    def __init__(
        self,
        world_size: int,
        *,
        threads: int = 1,
        timeout_seconds: float = 300,
        preload: Sequence[str] = (),
        backend: str = "gloo",
    ) -> None:
        """
        Args:
            world_size: number of ranks.
            threads: torch threads of each rank.
            timeout_seconds: longest wait of a collective, and of a call.
            preload: modules imported once and shared by all processes; the first Ranks of a process decides.
            backend: torch.distributed's.

        """
        self._timeout_seconds = timeout_seconds
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        context: ForkServerContext = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["orchestrator.strategies.ranks", "torch", "torch.distributed", *preload]
        )
        self._pipes: list[Connection] = []
        self._processes: list[ForkServerProcess] = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(
                    theirs,
                    rank,
                    world_size,
                    str(Path(self._folder.name) / "store"),
                    threads,
                    timeout_seconds,
                    backend,
                ),
                daemon=True,
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """``function(*arguments)`` on every rank; the results in order of ranks.

        Raises:
            TrainwrightError: as the first rank that failed raised it.
            InfrastructureError: any other error of a rank, with its traceback, or a rank that died or hung.

        """
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((function, arguments)))
        results: list[Any] = [None] * len(self._pipes)
        missing = dict(enumerate(self._pipes))
        while missing:
            ready = wait(list(missing.values()), timeout=self._timeout_seconds)
            if not ready:
                self.close()
                raise InfrastructureError(
                    f"ranks {sorted(missing)} did not answer in {self._timeout_seconds:g} s"
                )
            for rank in [rank for rank, pipe in missing.items() if pipe in ready]:
                try:
                    error, results[rank] = missing.pop(rank).recv()
                except EOFError:
                    self._processes[rank].join(5)
                    error = InfrastructureError(
                        f"rank {rank} died with exit code {self._processes[rank].exitcode}"
                    )
                if error is not None:
                    self.close()
                    raise error
        return results

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send_bytes(b"")
                pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(
    pipe: Connection,
    rank: int,
    world_size: int,
    store_file: str,
    threads: int,
    timeout_seconds: float,
    backend: str,
) -> None:
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)})
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import FileStore

    torch.set_num_threads(threads)
    dist.init_process_group(
        backend,
        store=FileStore(store_file, world_size),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
    )
    while message := _received(pipe):
        answer: tuple[TrainwrightError | None, Any]
        try:
            function, arguments = pickle.loads(message)
            answer = (None, function(*arguments))
        except TrainwrightError as error:
            answer = (error, None)
        except BaseException:
            answer = (InfrastructureError(f"rank {rank} failed:\n{traceback.format_exc()}"), None)
        with contextlib.suppress(BrokenPipeError):  # whoever asked has gone
            pipe.send(answer)


def _received(pipe: Connection) -> bytes:
    """The next call, pickled; nothing where there is none any more."""
    try:
        return pipe.recv_bytes()
    except EOFError:
        return b""
