"""Sounds for ``data_readers.py``: a folder of WAV and FLAC files, and how peers read it with soundfile.

Peers do what ``TRANSFORMS`` says, with the same filters, each step in the fastest way that was tried for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

FILE_RATE, RATE = 22_050, 16_000
CLASSES, LONGEST, HEARD = 10, 24_000, 16_000
MELS, WINDOW, HOP = 64, 400, 160
MASKS, BAND, STRETCH = 2, 8, 20
TRANSFORMS: list[dict[str, Any]] = [
    {"kind": "resample", "rate": RATE},
    {"kind": "pad", "length": LONGEST, "longer": "cut"},
    {"kind": "crop", "length": HEARD},
    {"kind": "mel", "rate": RATE, "mels": MELS, "window": WINDOW, "hop": HOP},
    {"kind": "normalize", "tensor": "signal"},
    {"kind": "spec_augment", "frequency_width": BAND, "time_width": STRETCH},
]


def write_sounds(folder: Path, count: int) -> None:
    """Sounds of 1.0 to 1.5 seconds: a tone that glides with overtones, and noise; WAV and FLAC by turns."""
    import soundfile

    rng = np.random.default_rng(0)
    for number in range(count):
        label = number % CLASSES
        time = np.arange(int(FILE_RATE * rng.uniform(1.0, 1.5))) / FILE_RATE
        phase = 2 * np.pi * time * (120 + 30 * label + 40 * time)
        voice = sum(np.sin(phase * n) / n for n in range(1, 6))
        wave = 0.2 * voice * np.sin(np.pi * time / time[-1]) + 0.01 * rng.standard_normal(len(time))
        place = folder / f"class-{label}" / f"{number:05d}.{('wav', 'flac')[number // CLASSES % 2]}"
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, wave, FILE_RATE, subtype="PCM_16")


def sounds_in(folder: Path) -> tuple[list[Path], list[int]]:
    """Files and their labels."""
    paths = sorted(folder.rglob("*.*"))
    return paths, [int(path.parent.name.rsplit("-", 1)[1]) for path in paths]


def heard(path: Path, rng: np.random.Generator) -> np.ndarray:
    """What a model gets of a file: (mels, frames) float32."""
    import soundfile
    from scipy.signal import resample_poly

    wave, rate = soundfile.read(path, dtype="float32")
    wave = resample_poly(wave, RATE // 50, rate // 50, window=_low_pass())[:LONGEST]
    own = len(wave)
    wave = np.pad(wave, (0, LONGEST - own))
    start = int(rng.integers(0, max(0, own - HEARD) + 1))
    mel = (_log_mel(wave[start : start + HEARD]) + 40) / 20
    for _ in range(MASKS):
        width = int(rng.integers(0, BAND + 1))
        first = int(rng.integers(0, MELS - width + 1))
        mel[first : first + width] = 0
    for _ in range(MASKS):
        width = int(rng.integers(0, STRETCH + 1))
        first = int(rng.integers(0, mel.shape[1] - width + 1))
        mel[:, first : first + width] = 0
    return mel


def batch_of(paths: Sequence[Path], labels: Sequence[int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Samples of some files."""
    return {"signal": np.stack([heard(path, rng) for path in paths]), "label": np.asarray(labels)}


def files_alone(folder: Path, batch: int) -> Iterator[Any]:
    """Files in a shuffled order in this process, nothing ahead: the floor."""
    import torch

    (paths, labels), rng = sounds_in(folder), np.random.default_rng(0)
    while True:
        order = rng.permutation(len(paths))
        for start in range(0, len(order) - batch + 1, batch):
            some = order[start : start + batch]
            made = batch_of([paths[i] for i in some], [labels[i] for i in some], rng)
            yield {name: torch.from_numpy(values) for name, values in made.items()}


def dataloader(folder: Path, batch: int) -> Iterator[Any]:
    """torch's DataLoader over the files, shuffled, with two worker processes."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Sounds(Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.paths, self.labels = sounds_in(folder)
            self.rng = np.random.default_rng(0)

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return torch.from_numpy(heard(self.paths[index], self.rng)), self.labels[index]

    loader = DataLoader(
        Sounds(),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        prefetch_factor=4,
        persistent_workers=True,
    )
    while True:
        for signal, label in loader:
            yield {"signal": signal, "label": label}


@lru_cache(maxsize=1)
def _low_pass() -> np.ndarray:
    """The filter that ``resample_poly`` would make anew for each sound."""
    from scipy.signal import firwin

    longest = max(RATE, FILE_RATE) // 50
    return firwin(20 * longest + 1, 1 / longest, window=("kaiser", 5.0)).astype(np.float32)


@lru_cache(maxsize=1)
def _of_mel() -> tuple[Any, Any]:
    import torch

    from orchestrator.data.transforms.spectrograms import mel_filters

    return torch.hann_window(WINDOW), torch.from_numpy(mel_filters(RATE, WINDOW, MELS, 0.0, None))


def _log_mel(wave: np.ndarray) -> np.ndarray:
    """As torchaudio's MelSpectrogram and AmplitudeToDB do it, in float32."""
    import torch

    window, filters = _of_mel()
    bins = torch.stft(
        torch.from_numpy(wave), WINDOW, HOP, window=window, pad_mode="constant", return_complex=True
    )
    power = bins.real.square() + bins.imag.square()
    loud = 10 * torch.log10(torch.clamp(filters @ power, min=1e-10))
    return torch.maximum(loud, loud.max() - 80).numpy()
