"""Synthesized speech for spoken-digits.yaml and spoken-words.yaml: words as eSpeak NG says them, in many voices.

    pip install espeakng-loader soundfile       # a wheel with the synthesizer (GPL-3) and its voices

No recordings: a synthesizer speaks more evenly than people do. Voice, accent, speed, pitch, loudness and noise are drawn
by a sound's number. The evaluation's voices are in no training sound.
"""

from __future__ import annotations

import ctypes
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import ray.data

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (
    *("red", "green", "blue", "black", "white", "left", "right", "up", "down", "open", "close", "start"),
    *("stop", "fast", "slow", "big", "small", "lamp", "door", "window", "music", "heat", "light", "garden"),
)
ACCENTS = ("en", "en-us", "en-029", "en-gb-scotland", "en-gb-x-rp")
TRAINING_VOICES = (
    *("m1", "m2", "m3", "m5", "m6", "m8", "Alex", "Andy", "Denis", "Diogo", "Hugo", "Lee", "Marco"),
    *("Michael", "ed", "gustave", "ian", "john", "marcelo", "max", "miguel", "norbert", "paul", "quincy"),
    *("robert", "travis", "f1", "Andrea", "Annie", "anika", "aunty", "belinda", "grandma", "steph", "steph2"),
)
OTHER_VOICES = ("m4", "m7", "Henrique", "michel", "pablo", "f4", "linda", "shelby")
"""Of the voices that say a word in the same way each time: f2, f3, f5 and some others hold chance of their own."""
RATE = 8000


def digits(sounds: int, held_out: bool = False) -> ray.data.Dataset:
    """A digit each: ``sound`` (FLAC) and ``digit``."""
    random = np.random.default_rng([7, held_out])
    return _spoken(random.choice(DIGITS, sounds).tolist(), "digit", held_out)


def words(sounds: int, held_out: bool = False) -> ray.data.Dataset:
    """A word each: ``sound`` (FLAC) and ``text``."""
    random = np.random.default_rng([17, held_out])
    return _spoken(random.choice(WORDS, sounds).tolist(), "text", held_out)


def _spoken(texts: list[str], column: str, held_out: bool) -> ray.data.Dataset:
    """Rows of ``id``, ``sound`` and the text under its name.

    A process of its own says them, in their order: the synthesizer goes on from the state that the last sound left.
    """
    import pyarrow as pa
    import ray.data

    asked = json.dumps({"texts": texts, "held_out": held_out})
    child = subprocess.run([sys.executable, __file__], input=asked.encode(), capture_output=True, check=False)
    if child.returncode:
        raise RuntimeError(f"the synthesizer failed: {child.stderr.decode(errors='replace')[-500:]}")
    with pa.ipc.open_stream(child.stdout) as sounds:
        (sound,) = sounds.read_all().columns
    return ray.data.from_arrow(pa.table({"id": range(len(texts)), "sound": sound, column: texts}))


def say_what_is_asked() -> None:
    """The child's part: texts on its standard input, FLAC files (Arrow) on its output."""
    import pyarrow as pa

    asked = json.load(sys.stdin)
    held_out = asked["held_out"]
    speak = Synthesizer()
    voices = OTHER_VOICES if held_out else TRAINING_VOICES
    sounds = [flac(speak, text, voices, [number, held_out]) for number, text in enumerate(asked["texts"])]
    table = pa.table({"sound": sounds})
    with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as out:
        out.write_table(table)


def flac(speak: Synthesizer, text: str, voices: Sequence[str], seed: Sequence[int]) -> bytes:
    """A text as a FLAC file at 8 kHz, as one of the voices says it: of any accent, fast or slow, high or low, in noise."""
    import soundfile
    from scipy.signal import resample_poly

    random = np.random.default_rng(seed)
    voice = f"{random.choice(ACCENTS)}+{random.choice(voices)}"
    wave = speak(text, voice, speed=int(random.integers(140, 220)), pitch=int(random.integers(30, 75)))
    wave = resample_poly(wave, 160, 441)
    wave *= random.uniform(0.3, 0.8) / np.abs(wave).max()
    wave += random.normal(0, random.uniform(0.005, 0.03), len(wave))
    out = io.BytesIO()
    soundfile.write(out, np.clip(wave, -1, 1), RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


class Synthesizer:
    """eSpeak NG, from the library that the package ``espeakng-loader`` holds."""

    rate = 22_050

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        rate = self._library.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)
        assert rate == self.rate, "espeak-ng's own rate"
        self._pieces: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._take)  # kept: the library holds no reference
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: Any, count: int, _: Any) -> int:
        if samples and count:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def __call__(self, text: str, voice: str, *, speed: int, pitch: int) -> np.ndarray:
        """Samples in -1..1. ``speed`` in words a minute, ``pitch`` in 0..100."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"eSpeak NG has no voice {voice}")
        self._library.espeak_SetParameter(1, speed, 0)
        self._library.espeak_SetParameter(3, pitch, 0)
        self._pieces.clear()
        spoken = text.encode()
        self._library.espeak_Synth(spoken, len(spoken) + 1, 0, 1, 0, 1, None, None)
        return np.concatenate(self._pieces) / 2**15


if __name__ == "__main__":
    say_what_is_asked()
