"""Readers of training data side by side: CPU time a sample, samples a second once running, time to the first batch.

Each reader runs in a process of its own, delivers torch tensors in batches, and is stopped after the same number of
samples. CPU time is that of the process and of all that it started (workers, Ray's processes while reading).

    python benchmarks/data_readers.py [--case tokens|images|table|audio] [--folder DIR] [--peer-path DIR]

``--peer-path`` is a folder with MosaicML Streaming for the comparison; without it that reader is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import audio_peers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "fakes"))

BATCH = 64
CASES: dict[str, dict[str, int]] = {
    "tokens": {"rows": 48_000, "group": 1000},
    "images": {"rows": 26_000, "group": 200},
    "table": {"rows": 400_000, "group": 10_000},
    "audio": {"rows": 4_000, "group": 1},
}
TOKENS, COLUMNS, SIDE, CROP = 1024, 128, 128, 4


# -- data ------------------------------------------------------------------------------------------------------


def make(case: str, folder: Path) -> Path:
    """200 MB or so, written once."""
    if case == "audio":
        return _make_sounds(folder / "audio")
    path = folder / f"{case}.parquet"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    rows, group = CASES[case]["rows"], CASES[case]["group"]
    writer: pq.ParquetWriter | None = None
    for start in range(0, rows, group):
        table = _rows(case, rng, start, group)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return path


def _make_sounds(folder: Path) -> Path:
    if not folder.exists():
        draft = folder.with_name("audio-draft")
        audio_peers.write_sounds(draft, CASES["audio"]["rows"])
        draft.rename(folder)
    return folder


def _megabytes(path: Path) -> float:
    files = path.rglob("*.*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6


def _rows(case: str, rng: np.random.Generator, start: int, count: int) -> pa.Table:
    label = np.arange(start, start + count) % 10
    if case == "tokens":
        tokens = rng.integers(0, 50_000, count * TOKENS).astype(np.int32)
        return pa.table({"tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens), TOKENS)})
    if case == "table":
        columns = rng.normal(size=(COLUMNS, count)).astype(np.float32)
        return pa.table({**{f"c{i:03d}": columns[i] for i in range(COLUMNS)}, "label": label})
    from PIL import Image

    images = []
    for _ in range(count):
        small = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        noise = rng.integers(-20, 20, (SIDE, SIDE, 3))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
        sink = io.BytesIO()
        image.save(sink, "JPEG", quality=90)
        images.append(sink.getvalue())
    return pa.table({"image": pa.array(images, pa.binary()), "label": label})


# -- what every peer does with a group of rows or with one row -------------------------------------------------


def decode(encoded: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


def augmented(images: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Random crop of the padded image and random flip, to float32 (B, 3, H, W) in 0..1."""
    out = np.empty((len(images), 3, SIDE, SIDE), np.float32)
    for index, image in enumerate(images):
        padded = np.pad(image, ((CROP, CROP), (CROP, CROP), (0, 0)))
        top, left = rng.integers(0, 2 * CROP + 1, 2)
        cut = padded[top : top + SIDE, left : left + SIDE]
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        out[index] = cut.transpose(2, 0, 1)
    out *= np.float32(1 / 255)
    return out


def group_to_samples(case: str, table: pa.Table) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function that makes a batch of some rows of the group."""
    rng = np.random.default_rng(0)
    if case == "tokens":
        tokens = table["tokens"].combine_chunks().flatten().to_numpy().reshape(-1, TOKENS)
        return lambda rows: {"tokens": tokens[rows].astype(np.int64)}
    label = table["label"].to_numpy()
    if case == "table":
        features = np.stack(
            [table[name].to_numpy() for name in table.column_names if name != "label"], axis=1
        )
        return lambda rows: {"features": features[rows], "label": label[rows]}
    column = table["image"].combine_chunks()

    def images(rows: np.ndarray) -> dict[str, np.ndarray]:
        pixels = [decode(one) for one in column.take(pa.array(rows)).to_pylist()]
        return {"image": augmented(pixels, rng), "label": label[rows]}

    return images


# -- readers: each yields batches of torch tensors for ever -----------------------------------------------------


def ours(case: str, path: Path, reader: str) -> Iterator[Any]:
    import torch
    from data_jobs import job_of, plan_of

    from orchestrator import data

    more: dict[str, Any] = {
        "tokens": {"family": "gpt", "model": {"family": "gpt", "context": TOKENS - 1, "vocabulary": 50_000}},
        "images": {"family": "cnn"},
        "table": {"family": "mlp"},
        "audio": {"family": "cnn", "model": {"family": "cnn", "dimensions": 1}},
    }[case]
    kind = "audio" if case == "audio" else "parquet"
    spec: dict[str, Any] = {"train": {"kind": kind, "path": str(path)}, "reader": reader}
    if case == "audio":
        spec["columns"] = {"signal": "audio", "label": "label"}
        spec["transforms"] = audio_peers.TRANSFORMS
    if case == "table":
        spec["columns"] = {"features": "*"}
    if case == "images":
        spec["transforms"] = [{"kind": "random_crop", "padding": CROP}, {"kind": "random_flip"}]
    plan = plan_of(job_of(spec, batch=BATCH, **more), path.parent, steps=10**6)
    prepared = data.prepare(plan)

    def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(values) for name, values in arrays.items()}

    for step in data.open_train(prepared, plan, rank=0, world_size=1, start_step=0, ready=tensors):
        yield step.micros[0]


def one_process(case: str, path: Path) -> Iterator[Any]:
    """Row groups in a shuffled order, rows shuffled within each, in this process: the floor."""
    import torch

    if case == "audio":
        yield from audio_peers.files_alone(path, BATCH)
    file, rng = pq.ParquetFile(path, memory_map=True), np.random.default_rng(0)
    while True:
        for group in rng.permutation(file.num_row_groups):
            make_batch = group_to_samples(case, file.read_row_group(int(group), use_threads=False))
            order = rng.permutation(CASES[case]["group"])
            for start in range(0, len(order) - BATCH + 1, BATCH):
                batch = make_batch(order[start : start + BATCH])
                yield {name: torch.from_numpy(values) for name, values in batch.items()}


def dataloader(case: str, path: Path) -> Iterator[Any]:
    """torch's DataLoader with two worker processes over row groups, whole batches made in the workers."""
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    if case == "audio":
        yield from audio_peers.dataloader(path, BATCH)

    class Rows(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[Any]:
            info = get_worker_info()
            file, rng = pq.ParquetFile(path, memory_map=True), np.random.default_rng(0)
            while True:
                for group in rng.permutation(file.num_row_groups)[info.id :: info.num_workers]:
                    make_batch = group_to_samples(case, file.read_row_group(int(group), use_threads=False))
                    order = rng.permutation(CASES[case]["group"])
                    for start in range(0, len(order) - BATCH + 1, BATCH):
                        yield make_batch(order[start : start + BATCH])

    yield from DataLoader(Rows(), batch_size=None, num_workers=2, prefetch_factor=4)


def ray_dataset(case: str, path: Path, split: bool) -> Iterator[Any]:
    """Stock Ray Data: files shuffled by row group are not offered, so a local shuffle buffer of 4,096 rows."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    while True:
        dataset = ray.data.read_parquet(str(path), override_num_blocks=16)
        if case == "images":
            rng = np.random.default_rng(0)

            def transform(
                batch: dict[str, np.ndarray], rng: np.random.Generator = rng
            ) -> dict[str, np.ndarray]:
                pixels = [decode(one) for one in batch["image"]]
                return {"image": augmented(pixels, rng), "label": batch["label"]}

            dataset = dataset.map_batches(transform, batch_size=BATCH)
        source: Any = dataset.streaming_split(1)[0] if split else dataset
        for batch in source.iter_torch_batches(
            batch_size=BATCH, local_shuffle_buffer_size=None if case == "images" else 4096, prefetch_batches=4
        ):
            if case == "tokens":
                batch = {"tokens": batch["tokens"].long()}
            if case == "table":
                import torch

                label = batch.pop("label")
                batch = {"features": torch.stack(list(batch.values()), dim=1), "label": label}
            yield batch


def mosaic(case: str, path: Path) -> Iterator[Any]:
    """MosaicML Streaming from its own format (converted beforehand), DataLoader with two workers."""
    import torch
    from streaming import MDSWriter, StreamingDataset

    folder = path.with_suffix(".mds")
    kinds = {
        "tokens": {"tokens": f"ndarray:int32:{TOKENS}"},
        "images": {"image": "bytes", "label": "int"},
        "table": {"features": f"ndarray:float32:{COLUMNS}", "label": "int"},
    }[case]
    if not folder.exists():
        file = pq.ParquetFile(path)
        with MDSWriter(out=str(folder), columns=kinds) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                if case == "tokens":
                    for row in table["tokens"].combine_chunks().flatten().to_numpy().reshape(-1, TOKENS):
                        writer.write({"tokens": row})
                elif case == "table":
                    features = np.stack(
                        [table[n].to_numpy() for n in table.column_names if n != "label"], axis=1
                    )
                    for row, label in zip(features, table["label"].to_pylist(), strict=True):
                        writer.write({"features": row, "label": label})
                else:
                    for image, label in zip(
                        table["image"].to_pylist(), table["label"].to_pylist(), strict=True
                    ):
                        writer.write({"image": image, "label": label})
    rng = np.random.default_rng(0)

    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        if case == "tokens":
            return {"tokens": torch.from_numpy(np.stack([s["tokens"] for s in samples]).astype(np.int64))}
        label = torch.tensor([s["label"] for s in samples])
        if case == "table":
            return {"features": torch.from_numpy(np.stack([s["features"] for s in samples])), "label": label}
        return {
            "image": torch.from_numpy(augmented([decode(s["image"]) for s in samples], rng)),
            "label": label,
        }

    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    while True:
        yield from torch.utils.data.DataLoader(
            dataset, batch_size=BATCH, num_workers=2, prefetch_factor=4, collate_fn=collate, drop_last=True
        )


READERS: dict[str, Callable[[str, Path], Iterator[Any]]] = {
    "trainwright, in the worker": lambda case, path: ours(case, path, "worker"),
    "trainwright, through Ray Data": lambda case, path: ours(case, path, "ray"),
    "one process alone (floor)": one_process,
    "torch DataLoader, 2 workers": dataloader,
    "Ray Data iter_torch_batches": lambda case, path: ray_dataset(case, path, split=False),
    "Ray Data streaming_split": lambda case, path: ray_dataset(case, path, split=True),
    "MosaicML Streaming, 2 workers": mosaic,
}
NOT_OF_SOUNDS = ("Ray Data iter_torch_batches", "Ray Data streaming_split", "MosaicML Streaming, 2 workers")


# -- measuring -------------------------------------------------------------------------------------------------


def tree_cpu_seconds() -> float:
    """CPU seconds of this process and of all below it, those that ended as well."""
    import psutil

    me = psutil.Process()
    own, total = me.cpu_times(), 0.0
    total += own.user + own.system + own.children_user + own.children_system
    for child in me.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = child.cpu_times()
            total += times.user + times.system
    return total


def measure(case: str, reader: str, path: Path, batches: int) -> dict[str, float]:
    """In this process: warm up for a tenth, then measure."""
    import torch

    torch.set_num_threads(1)
    if "Ray" in reader:
        import ray

        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            object_store_memory=512 * 2**20,
            _temp_dir=tempfile.mkdtemp(prefix="tw", dir="/tmp"),
        )
    began = time.perf_counter()
    stream = iter(READERS[reader](case, path))
    next(stream)
    first = time.perf_counter() - began
    for _ in range(batches // 10):
        next(stream)
    cpu, wall = tree_cpu_seconds(), time.perf_counter()
    for _ in range(batches):
        next(stream)
    cpu, wall = tree_cpu_seconds() - cpu, time.perf_counter() - wall
    samples = batches * BATCH
    return {"cpu_us": cpu / samples * 1e6, "rate": samples / wall, "first_seconds": first}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=[*CASES, "all"], default="all")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "trainwright-bench")
    parser.add_argument("--peer-path", default="")
    parser.add_argument("--only", default="", help="readers whose name has this in it")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for case in CASES if options.case == "all" else [options.case]:
        path = make(case, options.folder)
        batches = int(CASES[case]["rows"] / BATCH * options.epochs)
        if options.one:
            print(json.dumps(measure(case, options.one, path, batches)))
            sys.stdout.flush()
            os._exit(0)  # readers have threads and processes that know no end
        print(f"\n{case}: {_megabytes(path):.0f} MB, {CASES[case]['rows']} samples, batches of {BATCH}")
        print(f"{'reader':32} {'CPU us/sample':>14} {'samples/s':>10} {'first batch s':>14}")
        for reader in READERS:
            if options.only not in reader or (reader.startswith("MosaicML") and not options.peer_path):
                continue
            if case == "audio" and reader in NOT_OF_SOUNDS:
                continue
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
            environment.setdefault("RAY_worker_niceness", "0")  # as the others have it
            environment["PYTHONPATH"] = os.pathsep.join(
                [
                    str(Path(__file__).resolve().parents[1]),
                    options.peer_path,
                    os.environ.get("PYTHONPATH", ""),
                ]
            )
            command = [sys.executable, __file__, "--case", case, "--folder", str(options.folder)]
            command += ["--epochs", str(options.epochs), "--one", reader]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{reader:32} failed: {done.stderr.strip().splitlines()[-1][:100]}")
                continue
            found = json.loads(done.stdout.strip().splitlines()[-1])
            print(
                f"{reader:32} {found['cpu_us']:14.1f} {found['rate']:10.0f} {found['first_seconds']:14.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
