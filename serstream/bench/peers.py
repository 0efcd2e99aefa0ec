"""The same work by other libraries, with equal parameters; each is imported only where it is installed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from serstream.bench.measuring import Blocks, Peer
from serstream.features import FrontEnd

FRONT_END = FrontEnd()
SEGMENT_S = 2.56


def kaldi_native_fbank(blocks: Blocks) -> float:
    """Return the number of MFCC frames that OnlineMfcc makes of the blocks, each read out as an array."""
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


def librosa(blocks: Blocks) -> float:
    """Compute the whole segment again at each block; only what is new counts as a frame."""
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


def opensmile(blocks: Blocks) -> float:
    """Compute the low-level descriptors of eGeMAPS of the whole signal at once, which is how it is fastest."""
    signal = np.concatenate(blocks)
    _egemaps().process_signal(signal, FRONT_END.sample_rate)
    return signal.size / FRONT_END.sample_rate


@lru_cache(maxsize=1)
def _egemaps() -> Any:
    import opensmile

    return opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.LowLevelDescriptors
    )


MFCC = {
    "kaldi_native_fbank": Peer("kaldi-native-fbank's OnlineMfcc", kaldi_native_fbank),
    "librosa": Peer(f"librosa, computing a segment of {SEGMENT_S} s again at each block", librosa),
}
DESCRIPTORS = {"opensmile": Peer("openSMILE's low-level descriptors of eGeMAPS", opensmile)}
PEERS = (*MFCC, *DESCRIPTORS)
