"""Writes librosa_numbers.npz: what librosa 0.11 makes of a sound, for test_spectrograms.py. In an environment with librosa:

python tests/unit/data/librosa_numbers.py
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
CASES = {
    "speech": {"sr": 16_000, "n_fft": 400, "hop_length": 160, "n_mels": 80, "top_db": 80.0},
    "music": {
        "sr": 22_050,
        "n_fft": 1024,
        "hop_length": 256,
        "n_mels": 40,
        "fmin": 50.0,
        "fmax": 8000.0,
        "top_db": None,
    },
    "odd": {"sr": 8000, "n_fft": 256, "hop_length": 100, "n_mels": 23, "top_db": 60.0},
}
"""Name -> arguments of ``librosa.feature.melspectrogram`` and of ``power_to_db``."""


def sound() -> np.ndarray:
    """Silence, a tone, one that rises over it, and a quiet hiss without chance (4,000 samples)."""
    step = np.arange(4000)
    tone = 0.3 * np.sin(step * 0.17) + 0.2 * np.sin(step * step * 2e-4)
    hiss = 0.01 * ((step * 7919) % 1009 / 1009 - 0.5)
    return np.where(step < 500, 0.0, tone + hiss).astype(np.float32)


if __name__ == "__main__":
    import librosa

    made = {}
    for name, case in CASES.items():
        given = dict(case)
        top_db = given.pop("top_db")
        power = librosa.feature.melspectrogram(y=sound(), **given)
        made[name] = librosa.power_to_db(power, top_db=top_db).astype(np.float32)
    np.savez_compressed(FILE, **made)
