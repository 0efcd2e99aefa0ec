"""Features, renderings and crops: shapes, weights, and the same for the same seed."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile

from serstream.errors import ConfigError, SourceError
from serstream.features import FrontEnd, mfcc
from serstream.recordings import read_file
from serstream.resources import packaged
from serstream.training.augment import (
    FLOOR_DBFS,
    Scene,
    augment,
    change_speed,
    draw_scene,
    floor_below,
    mix_noise,
    noise_floor,
    room,
    transmit,
)
from serstream.training.corpora import EMOTIONS, Clip
from serstream.training.crops import CropSampler
from serstream.training.prepare import Prepared, load_prepared, prepare, read_clip, render, scenes_of
from serstream.training.recipe import NetworkShape, Recipe
from serstream.training.scaling import Normalisation, normalisation
from serstream.training.speech import rms, speech_level, spoken

DEMO = soundfile.read(packaged("demo.flac"), dtype="float32", frames=48_000)[0]
TOLD = ("calm", "happy", "sad", "angry", "fearful")
"""The emotions of the small corpus."""
RECIPE = Recipe(
    batch_size=32,
    corpus_shares={"ravdess_speech": 1.0},
    quiet_share=0.0,
    shape=NetworkShape(channels=8, n_blocks=1),
)


@pytest.fixture(scope="module")
def prepared(cache: Path) -> Prepared:
    return load_prepared(cache)


@pytest.fixture(scope="module")
def scale(prepared: Prepared) -> Normalisation:
    return normalisation(prepared, np.arange(len(prepared.clips)))


def sampler(prepared: Prepared, scale: Normalisation, recipe: Recipe = RECIPE) -> CropSampler:
    return CropSampler(prepared, np.arange(len(prepared.clips)), recipe, scale)


def test_the_first_rendering_is_what_the_runtime_hears_with_a_faint_noise_floor(prepared: Prepared) -> None:
    assert prepared.front_end == FrontEnd()
    assert len(prepared.clips) == 40
    assert prepared.n_variants == 2
    assert prepared.first.shape == (40, 3)
    assert prepared.first[0, 0] == 0
    assert prepared.first[1:, 0].tolist() == prepared.first[:-1, 2].tolist()
    assert prepared.features.shape == (prepared.first[-1, -1], 40)
    assert prepared.speech.shape == (prepared.first[-1, -1],)
    for i in (0, 17, 39):
        samples = read_clip(prepared.clips[i].path)
        rng = np.random.default_rng((0, i))
        level = floor_below(speech_level(samples), rng.uniform(*FLOOR_DBFS))
        frames = mfcc(samples + noise_floor(samples.size, rng, level), FrontEnd())
        span = prepared.span(i, 0)
        assert prepared.features[span].tobytes() == frames.astype(np.float16).tobytes()
        assert np.array_equal(prepared.speech[span], spoken(samples)[: len(frames)])


def test_in_any_scene_speech_is_where_it_is_in_the_clip_alone() -> None:
    """Neither noise, nor room, nor level moves it; speed does, for the clip is played faster or slower."""
    noises = [noise_floor(10_000, np.random.default_rng(9), -20.0)]
    loud = draw_scene(1, np.random.default_rng(1))._replace(noise=0, snr_db=-10.0, gain_db=-30.0)
    scenes = [loud._replace(speed=1.0), loud._replace(speed=1.1)]
    renderings = render(DEMO, scenes, FrontEnd(), noises, np.random.default_rng(0))
    assert [speech.tolist() for _, speech in renderings] == [
        spoken(change_speed(DEMO, speed))[: len(frames)].tolist()
        for speed, (frames, _) in zip((1.0, 1.0, 1.1), renderings, strict=True)
    ]
    assert all(len(speech) == len(frames) for frames, speech in renderings)
    assert renderings[0][1].any()
    assert not np.array_equal(renderings[0][0], renderings[1][0])


def test_a_hop_in_which_no_speech_is_found_is_refused(ravdess: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hop_length is 128; it must be 256, in which speech is found"):
        prepare(
            ravdess,
            tmp_path / "features",
            front_end=FrontEnd(hop_length=128),
            n_variants=1,
            seed=0,
            jobs=1,
            corpora=("ravdess_speech",),
        )
    assert not (tmp_path / "features").exists()


def test_all_clips_of_a_speaker_share_the_scenes_of_the_other_renderings(prepared: Prepared) -> None:
    first, second, other = prepared.clips[0], prepared.clips[1], prepared.clips[-1]
    assert first.speaker == second.speaker != other.speaker
    one, same, another = (scenes_of(clip, 3, 5, seed=0) for clip in (first, second, other))
    assert [as_text(scene) for scene in one] == [as_text(scene) for scene in same]
    assert [as_text(scene) for scene in one] != [as_text(scene) for scene in another]
    assert len({as_text(scene) for scene in one}) == 3


def as_text(scene: Scene) -> str:
    return repr([x.tobytes() if isinstance(x, np.ndarray) else x for x in scene])


def test_normalisation_makes_the_speech_frames_standard(prepared: Prepared, scale: Normalisation) -> None:
    x = (prepared.features[prepared.speech].astype(np.float32) - scale.mean) / scale.std
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(x.std(axis=0), 1.0, atol=1e-3)


def test_ordinary_lies_where_neutral_clips_lie_beside_all_of_their_speaker(prepared: Prepared) -> None:
    """Here a clip of each of two speakers is called neutral, with cepstra 3 below those of the others."""
    own = {s: [i for i, c in enumerate(prepared.clips) if c.speaker == s] for s in ("ravdess-A01", "ravdess-A02")}
    clips, features = list(prepared.clips), np.zeros_like(prepared.features)
    for clip in (rows[0] for rows in own.values()):
        clips[clip] = replace(clips[clip], emotion="neutral")
        features[prepared.span(clip, 0)] = -3.0
    rows = np.array([i for rows in own.values() for i in rows])
    found = normalisation(replace(prepared, clips=clips, features=features), rows)
    spoken = {s: [np.count_nonzero(prepared.speech[prepared.span(i, 0)]) for i in rows] for s, rows in own.items()}
    distance = np.mean([3.0 - 3.0 * n[0] / sum(n) for n in spoken.values()])
    np.testing.assert_allclose(found.mean - found.ordinary, distance, rtol=1e-3)


def test_normalisation_of_nothing_is_refused_in_a_sentence(prepared: Prepared) -> None:
    with pytest.raises(ConfigError, match="no speech"):
        normalisation(prepared, np.array([], np.int64))


def test_a_batch_has_the_shapes_of_the_recipe(prepared: Prepared, scale: Normalisation) -> None:
    batch = sampler(prepared, scale).batch(0, 0)
    n, outputs = RECIPE.batch_size, RECIPE.segment_frames // RECIPE.shape.stride
    assert batch.frames.shape == (n, RECIPE.window_frames, 40)
    assert batch.weights.shape == (n, outputs)
    assert batch.emotion.shape == batch.allowed.shape == (n, len(TOLD))
    assert batch.voice.shape == batch.speech.shape == (n, 2)
    assert batch.gate.shape == (n, outputs, 2)
    assert all(np.isfinite(x).all() for x in batch)
    assert 0.0 <= batch.weights.min() < batch.weights.max() <= 1.0
    np.testing.assert_allclose(batch.emotion.sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(batch.voice.sum(axis=1), 1.0, atol=1e-5)
    assert batch.speech[:, 0].tolist() == [1.0] * n


def test_every_crop_pools_at_least_the_least_segment_of_speech(prepared: Prepared, scale: Normalisation) -> None:
    for step in range(4):
        n_speech = sampler(prepared, scale).batch(0, step).weights.astype(bool).sum(axis=1) * RECIPE.shape.stride
        # a group of frames may be rounded up or down to speech
        assert n_speech.min() >= RECIPE.min_segment_frames - 2 * RECIPE.shape.stride


def test_the_same_step_gives_the_same_batch_and_another_another(prepared: Prepared, scale: Normalisation) -> None:
    first, again = (sampler(prepared, scale).batch(3, 5) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    reseeded = msgspec.structs.replace(RECIPE, seed=1)
    others = [sampler(prepared, scale).batch(3, 6), sampler(prepared, scale).batch(4, 5)]
    others.append(sampler(prepared, scale, reseeded).batch(3, 5))
    assert not any(np.array_equal(first.frames, other.frames) for other in others)


def _digest(cache: Path) -> str:
    """Return a digest of a batch of two corpora."""
    clips = load_prepared(cache)
    batch = sampler(with_noise(clips, heard=True), normalisation(clips, np.arange(len(clips.clips))), NOISY).batch(0, 0)
    return hashlib.sha256(b"".join(part.tobytes() for part in batch)).hexdigest()


def test_a_process_of_its_own_gives_the_same_batch(cache: Path) -> None:
    """Every process hashes strings its own way, and nothing may go by that order."""
    code = "import sys, pathlib, test_crops; print(test_crops._digest(pathlib.Path(sys.argv[1])))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code, cache],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3", "4")
    }
    assert seen == {f"{_digest(cache)}\n".encode()}


def test_before_the_stream_began_there_is_the_normalised_zero_vector(prepared: Prepared, scale: Normalisation) -> None:
    """As the runtime's context is at a reset."""
    drawn = sampler(prepared, scale)
    whole = drawn.whole_clips(drawn.usable(np.arange(len(prepared.clips))))
    lengths = prepared.first[:, 1] - prepared.first[:, 0]
    missing = [int(np.argmax(np.any(frames != 0.0, axis=1))) for frames in whole.frames]
    assert max(missing) > 0
    assert min(missing) >= max(0, RECIPE.window_frames - int(lengths.max()) - RECIPE.window_frames // 2)
    before = [m - (RECIPE.window_frames - RECIPE.segment_frames) for m in missing]
    for weights, n in zip(whole.weights, before, strict=True):
        assert not weights[: max(0, n) // RECIPE.shape.stride].any()


def test_emotions_that_a_corpus_lacks_are_masked_and_have_no_target(prepared: Prepared, scale: Normalisation) -> None:
    clips = [replace(c, corpus="other") if c.emotion in ("sad", "angry") else c for c in prepared.clips]
    part = Prepared(clips, prepared.front_end, prepared.features, prepared.speech, prepared.first)
    drawn = sampler(part, scale, msgspec.structs.replace(RECIPE, corpus_shares={"other": 0.5, "ravdess_speech": 0.5}))
    assert drawn.emotions == TOLD
    batch = drawn.batch(0, 0)
    of_other = batch.allowed[:, TOLD.index("sad")] == 1.0
    assert 0 < of_other.sum() < RECIPE.batch_size
    expected = np.array([[e in ("sad", "angry") for e in TOLD]] * int(of_other.sum()), np.float32)
    assert np.array_equal(batch.allowed[of_other], expected)
    assert np.array_equal(batch.allowed[~of_other], np.ones((int((~of_other).sum()), 5)) - expected[:1])
    assert not batch.emotion[batch.allowed == 0.0].any()


def test_what_listeners_voted_is_a_part_of_the_target(prepared: Prepared, scale: Normalisation) -> None:
    votes = tuple(3 * (e == "sad") + 6 * (e == "disgust") + (e == "happy") for e in EMOTIONS)
    clips = [replace(c, votes=votes if c.emotion == "calm" else ()) for c in prepared.clips]
    part = Prepared(clips, prepared.front_end, prepared.features, prepared.speech, prepared.first)
    plain = msgspec.structs.replace(RECIPE, label_smoothing=0.0)
    rows = [next(i for i, c in enumerate(clips) if c.emotion == e) for e in ("calm", "angry")]
    drawn = sampler(part, scale, msgspec.structs.replace(plain, votes_weight=0.2)).whole_clips(np.array(rows))
    np.testing.assert_allclose(drawn.emotion, [[0.8, 0.05, 0.15, 0, 0], [0, 0, 0, 1, 0]], atol=1e-6)
    without = sampler(part, scale, plain).whole_clips(np.array(rows))
    assert without.emotion.tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 1, 0]]


def with_noise(prepared: Prepared, *, heard: bool) -> Prepared:
    """Call the sad clips noise; the gate's teacher takes them for speech as before, or for none."""
    noise = Clip(Path("n.wav"), "esc50", "", "", "")
    clips, speech = [noise if c.emotion == "sad" else c for c in prepared.clips], prepared.speech.copy()
    for i, clip in enumerate(clips):
        if not (clip.emotion or heard):
            speech[prepared.first[i, 0] : prepared.first[i, -1]] = False
    return replace(prepared, clips=clips, speech=speech)


NOISY = msgspec.structs.replace(RECIPE, corpus_shares={"esc50": 0.5, "ravdess_speech": 0.5})


@pytest.mark.parametrize("heard", [True, False])
def test_noise_has_neither_emotion_nor_voice_and_is_no_speech(
    prepared: Prepared, scale: Normalisation, heard: bool
) -> None:
    """Whether it is easily taken for speech or not."""
    batch = sampler(with_noise(prepared, heard=heard), scale, NOISY).batch(0, 0)
    is_noise = batch.speech[:, 1] == 1.0
    assert 0 < is_noise.sum() < RECIPE.batch_size
    assert not batch.emotion[is_noise].any()
    assert not batch.voice[is_noise].any()
    assert not batch.weights[is_noise].any(), "what the gate lets through of it is pooled"
    assert not batch.gate[is_noise, :, 0].any()
    assert batch.gate[is_noise, :, 1].any(axis=1).all()
    np.testing.assert_allclose(batch.emotion[~is_noise].sum(axis=1), 1.0, atol=1e-5)
    assert batch.speech[~is_noise].tolist() == [[1.0, 0.0]] * int((~is_noise).sum())
    assert batch.weights[~is_noise].any(axis=1).all()
    assert batch.gate[~is_noise, :, 0].any(axis=1).all()


def test_the_gate_learns_where_half_of_an_output_or_more_is_speech(prepared: Prepared, scale: Normalisation) -> None:
    drawn, stride = sampler(prepared, scale), RECIPE.shape.stride
    rows = drawn.usable(np.arange(len(prepared.clips)))
    batch, counts = drawn.whole_clips(rows), set()
    for row, gate, weights in zip(rows, batch.gate, batch.weights, strict=True):
        # a window ends with the last frame at which the segment holds enough
        speech = prepared.speech[prepared.span(row, 0)]
        inside = np.convolve(speech, np.ones(RECIPE.segment_frames))[: speech.size]
        end = int(np.flatnonzero(inside >= RECIPE.min_segment_frames)[-1]) + 1
        n = min(RECIPE.n_outputs, end // stride)
        in_each = speech[end - n * stride : end].reshape(n, stride).sum(axis=1)
        assert gate[-n:].tolist() == np.stack([in_each >= 2, in_each < 2], axis=1).astype(float).tolist()
        assert np.array_equal(weights[-n:] > 0.0, in_each >= 2), "what is pooled is what the gate is to let through"
        counts |= set(in_each.tolist())
    assert {0, 1, 2, 3, 4} == counts


def test_what_lies_before_a_stream_is_no_target_of_the_gate(prepared: Prepared, scale: Normalisation) -> None:
    bare = msgspec.structs.replace(RECIPE, room_share=0.0, mixup=0.0)
    batch = sampler(prepared, scale, bare).batch(0, 0)
    began = np.any(batch.frames != 0.0, axis=2)[:, -RECIPE.segment_frames :]
    known = began.reshape(len(began), -1, RECIPE.shape.stride).mean(axis=2) >= 0.5
    assert np.array_equal(batch.gate.sum(axis=2).astype(bool), known)
    assert np.count_nonzero(~known) > 0


def test_before_a_crop_the_place_was_silent_and_that_is_no_speech(prepared: Prepared, scale: Normalisation) -> None:
    silent = msgspec.structs.replace(RECIPE, room_share=1.0, mixup=0.0)
    with_room = sampler(prepared, scale, silent).batch(0, 0)
    assert np.any(with_room.frames != 0.0, axis=2).all(), "no frame lies before the stream"
    np.testing.assert_allclose(with_room.gate.sum(axis=2), 1.0)
    # where a clip of two seconds begins inside the segment, the room lies before it
    assert (with_room.gate[:, 0, 1] == 1.0).any()
    assert np.array_equal(with_room.gate[:, :, 0] > 0, with_room.weights > 0)


def test_in_a_quiet_crop_nobody_speaks(prepared: Prepared, scale: Normalisation) -> None:
    batch = sampler(prepared, scale, msgspec.structs.replace(RECIPE, quiet_share=1.0)).batch(0, 0)
    assert not batch.emotion.any()
    assert not batch.voice.any()
    assert not batch.weights.any()
    assert np.array_equal(batch.speech, np.broadcast_to(np.float32([0.0, 1.0]), batch.speech.shape))
    np.testing.assert_allclose(batch.gate, np.broadcast_to(np.float32([0.0, 1.0]), batch.gate.shape), atol=1e-6)
    assert np.any(batch.frames != 0.0, axis=2).all(), "a place is heard, not what lies before a stream"


def test_some_crops_are_quiet_and_the_others_are_not(prepared: Prepared, scale: Normalisation) -> None:
    batch = sampler(prepared, scale, msgspec.structs.replace(RECIPE, quiet_share=0.5, mixup=0.0)).batch(0, 0)
    is_quiet = batch.speech[:, 1] == 1.0
    assert 0.2 < is_quiet.mean() < 0.8
    assert not batch.gate[is_quiet, :, 0].any()
    assert batch.gate[~is_quiet, :, 0].any(axis=1).all()
    np.testing.assert_allclose(batch.emotion.sum(axis=1), ~is_quiet, atol=1e-5)


def test_a_mix_blends_frames_and_targets_alike_and_pools_the_speech_of_either(
    prepared: Prepared, scale: Normalisation
) -> None:
    some = msgspec.structs.replace(RECIPE, quiet_share=0.3)
    plain, mixed = (sampler(prepared, scale, msgspec.structs.replace(some, mixup=m)).batch(0, 0) for m in (0.0, 0.4))
    shares = []
    for i in range(RECIPE.batch_size):
        share, j = mixture(mixed.frames[i], plain.frames, i)
        for name in ("frames", "emotion", "voice", "speech", "gate"):
            x, got = getattr(plain, name), getattr(mixed, name)[i]
            np.testing.assert_allclose(got, share * x[i] + (1 - share) * x[j], atol=1e-4)
        assert np.array_equal(mixed.weights[i], np.maximum(plain.weights[i], plain.weights[j]))
        shares.append(share)
    assert 0.5 - 1e-4 <= min(shares) < 0.9
    assert max(shares) <= 1.0 + 1e-4


def mixture(mixed: np.ndarray, frames: np.ndarray, own: int) -> tuple[float, int]:
    """Return the share of an example in its mix, and which other has the rest of it."""
    found = []
    for j, other in enumerate(frames):
        apart = (frames[own] - other).astype(np.float64)
        share = 1.0 if j == own else float(np.sum((mixed - other) * apart) / np.sum(apart**2))
        found.append((float(np.abs(other + share * apart - mixed).max()), share, j))
    _, share, j = min(found)
    return share, j


def scene(seed: int) -> Scene:
    return draw_scene(1, np.random.default_rng(seed))


def test_a_rendering_is_the_same_for_the_same_seed_and_as_long_as_its_speed_says() -> None:
    noises = [noise_floor(10_000, np.random.default_rng(9), -20.0)]
    a, b, c = (augment(DEMO, scene(s), noises, 0.1, np.random.default_rng(s)) for s in (1, 1, 2))
    assert a.dtype == np.float32
    assert a.size == pytest.approx(DEMO.size / scene(1).speed, abs=2)
    assert a.tobytes() == b.tobytes()
    assert a.size != c.size or not np.array_equal(a, c)


@pytest.mark.parametrize("seed", range(5))
def test_a_room_and_a_microphone_keep_the_level(seed: int) -> None:
    out = transmit(DEMO, scene(seed))
    assert out.shape == DEMO.shape
    assert rms(out) == pytest.approx(rms(DEMO), rel=1e-3)


@pytest.mark.parametrize("snr_db", [5.0, 20.0])
def test_noise_is_so_far_below_the_speech_and_the_floor_at_its_level(snr_db: float) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(3_000).astype(np.float32)
    added = mix_noise(np.zeros(20_000, np.float32), 0.1, noise, snr_db, rng)
    assert 20 * np.log10(rms(added) / 0.1) == pytest.approx(-snr_db, abs=0.1)
    assert 20 * np.log10(rms(noise_floor(20_000, rng, -60.0))) == pytest.approx(-60.0, abs=0.1)


def test_a_floor_stays_below_a_quiet_voice_and_never_vanishes() -> None:
    assert floor_below(0.1, -60.0) == -60.0
    assert floor_below(0.004, -50.0) == pytest.approx(20 * np.log10(0.004) - 25.0)
    assert floor_below(1e-6, -50.0) == -75.0


def test_a_faster_clip_is_shorter_and_higher() -> None:
    tone = np.sin(2 * np.pi * 400.0 * np.arange(16_000) / 16_000).astype(np.float32)
    fast = change_speed(tone, 1.05)
    assert fast.size == pytest.approx(16_000 / 1.05, abs=2)
    spectrum = np.abs(np.fft.rfft(fast[:15_000]))
    assert np.argmax(spectrum) * 16_000 / 15_000 == pytest.approx(420.0, abs=1.1)
    assert change_speed(tone, 1.0) is tone


def test_a_room_begins_with_the_direct_sound() -> None:
    response = room(np.random.default_rng(0))
    assert response[0] == 1.0
    assert np.abs(response[1:]).max() < 1.0


def test_silence_can_be_augmented() -> None:
    silence = np.zeros(8_000, np.float32)
    out = augment(silence, scene(0)._replace(noise=None), [], 1e-6, np.random.default_rng(0))
    assert np.isfinite(out).all()
    assert out.any()


def test_the_receptive_field_of_the_default_network_is_that_of_the_shipped_model() -> None:
    assert NetworkShape().receptive_field_frames == 181
    assert Recipe().window_frames == 181 + 160 - 4


def test_features_that_were_not_prepared_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no prepared features; run `python -m serstream\.training prepare`"):
        load_prepared(tmp_path)


def test_a_recording_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_text("no sound")
    with pytest.raises(SourceError, match=r"x\.wav is not audio that can be read"):
        read_clip(tmp_path / "x.wav")


def test_a_clip_is_read_as_the_runtime_reads_it(tmp_path: Path) -> None:
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, (44_100, 2)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", stereo, 44_100, subtype="FLOAT")
    assert read_clip(tmp_path / "x.wav").tobytes() == np.concatenate(list(read_file(tmp_path / "x.wav"))).tobytes()


def test_a_recording_with_a_sample_that_is_no_number_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.array([0.0, np.nan], np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(SourceError, match="holds a sample that is no finite number"):
        read_clip(tmp_path / "x.wav")


@pytest.mark.parametrize("silent", [False, True])
def test_a_corpus_without_a_usable_clip_is_refused_in_a_sentence(
    prepared: Prepared, scale: Normalisation, silent: bool
) -> None:
    speech = np.zeros_like(prepared.speech) if silent else prepared.speech
    rows = np.arange(len(prepared.clips) if silent else 0)
    with pytest.raises(
        ConfigError, match=r"no clip of ravdess_speech by a training speaker of fold 0 .* corpus_shares"
    ):
        CropSampler(
            Prepared(prepared.clips, FrontEnd(), prepared.features, speech, prepared.first), rows, RECIPE, scale
        )


def test_a_clip_with_too_little_speech_is_not_usable(prepared: Prepared, scale: Normalisation) -> None:
    speech = prepared.speech.copy()
    speech[prepared.first[3, 0] : prepared.first[3, -1]] = False
    part = Prepared(prepared.clips, prepared.front_end, prepared.features, speech, prepared.first)
    everything = np.arange(len(prepared.clips))
    usable = sampler(part, scale).usable(everything)
    assert 3 not in usable
    assert 0 < usable.size < everything.size
    assert len(sampler(part, scale).whole_clips(usable).weights) == usable.size


def test_a_recipe_that_names_the_stride_still_loads_and_another_stride_is_refused() -> None:
    decode = msgspec.json.Decoder(NetworkShape).decode
    assert decode(b'{"stride": 4}') == NetworkShape()
    with pytest.raises(msgspec.ValidationError, match="stride"):
        decode(b'{"stride": 8}')
