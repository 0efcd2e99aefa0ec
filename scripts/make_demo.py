"""Make the embedded demo, ``serstream/data/demo.flac``: several moods, spoken by espeak-ng.

The sentences are our own and the speech is synthesised by espeak-ng, so the recording is ours to give
away under the licence of the code. It shows the plumbing, not the accuracy: no person speaks in it, and voices and
pitches were chosen among many so that the shipped model hears several moods.

Needs espeak-ng (``apt install espeak-ng``), NumPy, soxr and soundfile. The same versions give the same file:

    python scripts/make_demo.py [OUT.flac]
"""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float64]

SAMPLE_RATE = 16_000
PAUSE_S = 1.2
PEAK_DBFS = -3.0
NOISE_DBFS = -70.0
SEED = 5755
OUT = Path(__file__).parent.parent / "serstream" / "data" / "demo.flac"


@dataclass(frozen=True)
class Utterance:
    """One sentence and how it is said.

    Attributes
    ----------
    mood : str
        What it is meant to sound like; not written into the file.
    text : str
        The sentence; espeak-ng's SSML is understood.
    voice : str
        espeak-ng voice and variant, for example ``en-us+f3``.
    pitch : int
        Pitch, 0 to 99 (50 is the voice's own).
    pitch_range : int
        How lively the melody is, 0 to 200 per cent (100 is the voice's own).
    words_per_minute : int
        Speaking rate, 80 to 450 words per minute.
    amplitude : int
        espeak-ng's own loudness, 0 to 200; above 150 it sounds pressed.
    gain_db : float
        Peak of this sentence relative to the loudest one, in dB, 0 or less.
    vibrato_hz, vibrato_share : float
        Tremble: how often per second, and by what share the pitch goes up and down (0 is none).
    drive : float
        Saturation of the waveform, as of a shouting voice: 0 is none, 4 is a lot.
    """

    mood: str
    text: str
    voice: str
    pitch: int = 50
    pitch_range: int = 100
    words_per_minute: int = 165
    amplitude: int = 100
    gain_db: float = 0.0
    vibrato_hz: float = 0.0
    vibrato_share: float = 0.0
    drive: float = 0.0


UTTERANCES = (
    Utterance(
        "calm", "The lamp is on, the tea is warm, and the evening is quiet.", "en-us+belinda",
        pitch=47, pitch_range=43, words_per_minute=110, amplitude=80, gain_db=-6,
    ),
    Utterance(
        "happy", "You came back! Oh, what a wonderful surprise, come in, come in!", "en-us-nyc+Andy",
        pitch=85, pitch_range=34, words_per_minute=185, amplitude=110, gain_db=-8, vibrato_hz=6, vibrato_share=0.03,
    ),
    Utterance(
        "sad", "The garden is empty now. Nobody waters the roses any more.", "en-gb-scotland+m8",
        pitch=21, pitch_range=62, words_per_minute=130, amplitude=60, gain_db=-18,
    ),
    Utterance(
        "angry", "No! I told you twice, take your hands off my radio, right now!", "en-us+Annie",
        pitch=36, pitch_range=94, words_per_minute=200, amplitude=190, gain_db=0, drive=4,
    ),
    Utterance(
        "fearful", "Who is there? Please, something moved behind the door, do not leave!", "en-us-nyc+steph",
        pitch=94, pitch_range=74, words_per_minute=140, amplitude=90, gain_db=-9,
        vibrato_hz=8, vibrato_share=0.03,
    ),
    Utterance(
        "calm", "Well, that was only the wind. Let us sit down and listen to the rain.", "en-us+m8",
        pitch=31, pitch_range=78, words_per_minute=170, amplitude=80, gain_db=-6,
    ),
)  # fmt: skip


def speak(utterance: Utterance) -> Samples:
    """Return a sentence as espeak-ng says it, at `SAMPLE_RATE`, peak 1, without silence around it."""
    ssml = f'<speak><prosody range="{utterance.pitch_range}%">{utterance.text}</prosody></speak>'
    command = ["espeak-ng", "--stdout", "-m", "-v", utterance.voice, "-p", str(utterance.pitch)]
    command += ["-s", str(utterance.words_per_minute), "-a", str(utterance.amplitude), ssml]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    samples, sample_rate = soundfile.read(io.BytesIO(wav), dtype="float64")
    samples = soxr.resample(tremble(samples, sample_rate, utterance), sample_rate, SAMPLE_RATE, quality="VHQ")
    return press(trim(samples / np.abs(samples).max()), utterance.drive)


def tremble(samples: Samples, sample_rate: int, utterance: Utterance) -> Samples:
    """Read the sound at a speed that swings, so that its pitch does."""
    if not utterance.vibrato_share:
        return samples
    time_s = np.arange(len(samples)) / sample_rate
    turn = 2 * np.pi * utterance.vibrato_hz
    read_s = time_s + utterance.vibrato_share / turn * np.sin(turn * time_s)
    return np.interp(read_s, time_s, samples)


def press(samples: Samples, drive: float) -> Samples:
    """Saturate, which flattens the peaks and brings up the overtones."""
    return np.tanh(drive * samples) / np.tanh(drive) if drive else samples


def trim(samples: Samples) -> Samples:
    """Cut what is 50 dB below the peak from both ends."""
    loud = np.flatnonzero(np.abs(samples) > 10 ** (-50 / 20))
    return samples[loud[0] : loud[-1] + 1]


def assemble(utterances: tuple[Utterance, ...]) -> Samples:
    """Return the whole recording: sentences divided by pauses, over a faint noise."""
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE))
    parts = [pause]
    for utterance in utterances:
        # the noise comes on top of the peak
        peak = 10 ** ((PEAK_DBFS - 0.1 + utterance.gain_db) / 20)
        parts += [peak * speak(utterance), pause]
    samples = np.concatenate(parts)
    noise = np.random.default_rng(SEED).standard_normal(len(samples))
    return samples + 10 ** (NOISE_DBFS / 20) * noise


def main(arguments: list[str]) -> str | None:
    """Write the file; return a sentence when that cannot be done."""
    out = Path(arguments[0]) if arguments else OUT
    try:
        samples = assemble(UTTERANCES)
    except FileNotFoundError:
        return "espeak-ng is not installed, and the demo is spoken by it; apt install espeak-ng"
    except subprocess.CalledProcessError as error:
        return f"espeak-ng failed: {error.stderr.decode(errors='replace').strip()}; correct the table"
    out.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(out, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    peak_dbfs = 20 * np.log10(np.abs(samples).max())
    print(f"{out}: {len(samples) / SAMPLE_RATE:.1f} s, peak {peak_dbfs:.1f} dBFS, {out.stat().st_size} bytes")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
