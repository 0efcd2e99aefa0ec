"""CPU time of one MFCC frame beside other libraries': ``python benchmarks/features.py [--json]``.

Each is fed the embedded demo in blocks of 0.25 s and read out as arrays, with the front end's default parameters:
taper, mel bands and cepstra of the same sizes, no dither, no pre-emphasis, no energy in place of a cepstrum. The
libraries take turns; those that are not installed are named. Run it under ``taskset -c 0``, so that no library gets
a second core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from figures import interleaved, ratio, show
from numpy.typing import NDArray

from serstream.features import FrontEnd, StreamingMfcc
from serstream.recordings import read_file
from serstream.resources import packaged

BLOCK_S, SEGMENT_S, TURN_S = 0.25, 2.56, 30.0
FRONT_END = FrontEnd()
Blocks = list[NDArray[np.float32]]


def demo_in_blocks() -> Blocks:
    """Return ``TURN_S`` seconds of the demo, again and again from its start."""
    demo = np.concatenate(list(read_file(packaged("demo.flac"))))
    samples = np.resize(demo, int(TURN_S * FRONT_END.sample_rate))
    return np.split(samples, int(TURN_S / BLOCK_S))


def us_per_frame(work: Callable[[Blocks], int], blocks: Blocks) -> float:
    """Return CPU microseconds per new frame of ``work``, which returns how many it computed."""
    started = time.process_time()
    n_frames = work(blocks)
    return (time.process_time() - started) / n_frames * 1e6


def serstream(blocks: Blocks) -> int:
    """Return the number of frames that a stream of blocks completes."""
    stream = StreamingMfcc(FRONT_END)
    return sum(len(stream.push(block)) for block in blocks)


def kaldi_native_fbank(blocks: Blocks) -> int:
    """Do the same with OnlineMfcc."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.MfccOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.samp_freq = FRONT_END.sample_rate
    frame.frame_length_ms = FRONT_END.win_length / FRONT_END.sample_rate * 1e3
    frame.frame_shift_ms = FRONT_END.hop_length / FRONT_END.sample_rate * 1e3
    frame.window_type = "hanning"
    frame.dither = frame.preemph_coeff = 0.0
    frame.remove_dc_offset = False
    mel.num_bins, mel.low_freq, mel.high_freq = FRONT_END.n_mels, FRONT_END.fmin_hz, FRONT_END.fmax_hz
    options.num_ceps, options.use_energy, options.cepstral_lifter = FRONT_END.n_mfcc, False, 0.0
    stream = kaldi_native_fbank.OnlineMfcc(options)
    read = 0
    for block in blocks:
        # it takes any sequence of numbers, and a list faster than an array
        stream.accept_waveform(FRONT_END.sample_rate, block.tolist())
        ready = stream.num_frames_ready
        np.stack([stream.get_frame(f) for f in range(read, ready)])
        stream.pop(ready - read)
        read = ready
    return read


def librosa(blocks: Blocks) -> int:
    """Compute the whole segment again at each step; only what is new counts as a frame."""
    import librosa

    segment = np.zeros(int(SEGMENT_S * FRONT_END.sample_rate), np.float32)
    for block in blocks:
        segment = np.concatenate([segment[block.size :], block])
        librosa.feature.mfcc(
            y=segment,
            sr=FRONT_END.sample_rate,
            n_mfcc=FRONT_END.n_mfcc,
            n_fft=FRONT_END.n_fft,
            hop_length=FRONT_END.hop_length,
            n_mels=FRONT_END.n_mels,
            fmin=FRONT_END.fmin_hz,
            fmax=FRONT_END.fmax_hz,
            htk=True,
            norm=None,
            center=False,
        )
    return FRONT_END.n_frames(sum(block.size for block in blocks))


def main() -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    peers = (kaldi_native_fbank, librosa)
    absent = [peer.__name__ for peer in peers if find_spec(peer.__name__) is None]
    works = [serstream, *(peer for peer in peers if peer.__name__ not in absent)]
    blocks = demo_in_blocks()
    costs = interleaved({work.__name__: partial(us_per_frame, work, blocks) for work in works})
    figures: dict[str, dict[str, Any]] = {}
    for name, cost in costs.items():
        own = name == "serstream"
        figures["mfcc_us_per_frame" + ("" if own else f"_{name}")] = cost | {"unit": "us"}
        if not own:
            figures[f"mfcc_speed_against_{name}"] = ratio(cost, costs["serstream"]) | {"unit": "times faster"}
    show(figures, absent, as_json=args.json)


if __name__ == "__main__":
    main()
