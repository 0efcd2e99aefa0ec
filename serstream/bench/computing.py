"""Figures of what is computed, in this process: features, network, the whole middle, and what a long stream keeps."""

from __future__ import annotations

import gc
import os

import numpy as np

from serstream.batch import alone
from serstream.bench.measuring import Blocks, Extent, Figure, compare, figure
from serstream.bench.peers import DESCRIPTORS, FRONT_END, MFCC
from serstream.bench.processes import memory_mb
from serstream.bench.speech import in_blocks
from serstream.classifier import Classifier
from serstream.config import SAMPLE_RATE
from serstream.daemon import find_model
from serstream.ear import Ear
from serstream.features import StreamingMfcc
from serstream.manifest import Manifest
from serstream.network import Network
from serstream.pipeline import Pipeline

BLOCK_S, DEVICE_BLOCK_S, SIGNAL_S = 0.25, 0.05, 30.0
MODEL = "serstream"
WARM_UP_STEPS = 1000


def mfcc(extent: Extent) -> list[Figure]:
    """Measure MFCC of a stream, beside kaldi-native-fbank's and librosa's of the segment again at each block."""

    def work(blocks: Blocks) -> float:
        stream = StreamingMfcc(FRONT_END)
        return sum(len(stream.push(block)) for block in blocks)

    about = f"one MFCC frame of a stream, blocks of {BLOCK_S} s, CPU"
    blocks = in_blocks(extent.signal_s, BLOCK_S)
    return compare("mfcc", "us_per_frame", about, work, blocks, extent.turns, MFCC)


def network(extent: Extent) -> list[Figure]:
    """Measure normalisation, trunk, pooling and head of one step, all of it taken for speech."""
    network = Network(find_model(MODEL))
    m = network.manifest
    frames = np.random.default_rng(0).standard_normal((m.step_frames, m.front_end.n_mfcc)).astype(np.float32)

    def work(blocks: Blocks) -> float:
        ear, classifier = Ear(network, threshold=0.0), Classifier(network)
        for _ in blocks:
            outputs = alone(network, ear.step(frames))
            alone(network, classifier.step(outputs))
        return len(blocks)

    step_s = step_samples(m) / SAMPLE_RATE
    about = f"the network, one step of {step_s:g} s, CPU"
    return compare("network", "us_per_step", about, work, in_blocks(extent.signal_s, step_s), extent.turns)


def middle(extent: Extent) -> list[Figure]:
    """Measure the whole middle, samples to events, beside openSMILE's low-level descriptors of eGeMAPS."""

    def work(blocks: Blocks) -> float:
        pipeline = _pipeline()
        for block in blocks:
            pipeline.push(pipeline.next_sample, block)
        return pipeline.next_sample / SAMPLE_RATE

    about = "samples to events, a second of speech, CPU"
    blocks = in_blocks(extent.signal_s, DEVICE_BLOCK_S)
    return compare("middle", "ms_per_audio_s", about, work, blocks, extent.turns, DESCRIPTORS)


def memory(extent: Extent) -> list[Figure]:
    """Measure what a stream leaves behind in memory."""
    pipeline = _pipeline()
    steps = in_blocks(SIGNAL_S, step_samples(pipeline.manifest) / SAMPLE_RATE)

    def after(n_steps: int) -> float:
        for i in range(n_steps):
            pipeline.push(pipeline.next_sample, steps[i % len(steps)])
        gc.collect()
        return memory_mb(os.getpid(), "Anonymous")  # PSS moves too when who shares a library with us ends

    before = after(WARM_UP_STEPS)
    growth = after(extent.steps) - before
    return [figure("memory_growth_mb", f"growth of memory over {extent.steps:,} steps of speech", "MB", [growth])]


def _pipeline() -> Pipeline:
    return Pipeline(Network(find_model(MODEL)), source="bench", session="")


def step_samples(manifest: Manifest) -> int:
    """Return how many samples a step goes on by."""
    return manifest.step_frames * manifest.front_end.hop_length
