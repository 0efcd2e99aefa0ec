import os
import pty
import struct
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from serstream_process import PROMPT_S

from serstream.config import DemoSource, FileSource, MicrophoneSource, NetworkSource, StdinSource, SyntheticSource
from serstream.errors import SourceError
from serstream.pulled import Resume
from serstream.resampler import Resampler
from serstream.sources import Block, Hole, Microphone, Remote, SoundFile, Stdin, Synthetic, make, read_file

RATE = 16_000


def tone(seconds, rate, frequency_hz=440.0, channels=1):
    y = 0.25 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(y[:, None], channels, axis=1).astype(np.float32)


def peak_hz(y):
    return np.argmax(np.abs(np.fft.rfft(y * np.hanning(y.size)))) * RATE / y.size


def whole(path, **options):
    return np.concatenate(list(read_file(path, **options)))


def drain(source, timeout_s=5.0):
    """Read a source to its end."""
    items = []
    while not source.ended:
        if (item := source.read(timeout_s)) is not None:
            items.append(item)
    return items


def samples_of(items):
    blocks = [item.samples for item in items if isinstance(item, Block)]
    return np.concatenate([np.zeros(0, np.float32), *blocks])


def assert_continuous(items):
    """Every block begins where the last one ended, plus what the holes between them lost."""
    first = 0
    for item in items:
        if isinstance(item, Hole) and item.phase == "end" and item.cause != "non_finite":
            first += item.lost_samples
        assert item.first_sample == first
        first += item.samples.size if isinstance(item, Block) else 0


def assert_balanced(source):
    source.close()
    counters = source.counters
    assert counters["captured"] == counters["consumed"] + counters["ring_overruns"] + counters["unread"]


# --- resampling ---


@settings(max_examples=30, deadline=None)
@given(
    rate=st.sampled_from([8_000, 11_025, 16_000, 44_100, 48_000, 192_000]),
    channels=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 6000), max_size=40),
)
def test_cutting_the_signal_anywhere_changes_no_sample(rate, channels, cuts):
    y = np.random.default_rng(0).standard_normal((6000, channels)).astype(np.float32)
    one, many = Resampler(rate, RATE), Resampler(rate, RATE)
    expected = np.concatenate([one.push(y), one.push(y[:0], last=True)])
    pieces = [many.push(piece) for piece in np.split(y, sorted(cuts))]
    pieces.append(many.push(y[:0], last=True))
    np.testing.assert_array_equal(np.concatenate(pieces), expected)
    assert abs(expected.size - 6000 * RATE / rate) <= 1


# --- recordings ---


@pytest.mark.parametrize(
    ("suffix", "rate", "channels", "subtype"),
    [
        ("wav", 8_000, 1, "PCM_16"),
        ("wav", 192_000, 8, "PCM_24"),
        ("wav", 16_000, 1, "FLOAT"),
        ("flac", 44_100, 2, "PCM_16"),
        ("ogg", 48_000, 2, "VORBIS"),
        ("mp3", 44_100, 1, "MPEG_LAYER_III"),
    ],
)
def test_any_format_rate_and_channel_count_becomes_mono_at_16_khz(tmp_path, suffix, rate, channels, subtype):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(1, rate, channels=channels), rate, subtype=subtype)
    y = whole(path)
    assert y.dtype == np.float32
    assert y.size == pytest.approx(RATE, abs=1200 if suffix == "mp3" else 1)  # MP3 pads
    middle = y[4000:12_000]
    assert peak_hz(middle) == pytest.approx(440, abs=2)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.02)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_the_samples_of_a_file_do_not_depend_on_the_block(tmp_path, suffix):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(1, 44_100, channels=2), 44_100)
    np.testing.assert_array_equal(whole(path, block_s=0.0001), whole(path, block_s=10.0))


def test_of_a_file_with_many_channels_no_more_is_read_at_once(tmp_path):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros((100_000, 64), np.int16), 8000)
    blocks = list(read_file(path, block_s=1e4))
    assert sum(block.size for block in blocks) == 200_000
    assert max(block.size for block in blocks) < 140_000


def cut(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])


def make_missing(path):
    pass


def make_empty(path):
    path.touch()


def make_folder(path):
    path.mkdir()


def make_pipe(path):
    os.mkfifo(path)


def make_text(path):
    path.write_text("this is no sound\n" * 500)


def make_header_alone(path):
    soundfile.write(path, np.zeros(0, np.float32), RATE)


def make_absurd_rate(path):
    soundfile.write(path, tone(1, RATE), 500_000)


def make_cut_header(path):
    soundfile.write(path, tone(1, RATE), RATE)
    cut(path, 30)


def make_noise(path):
    soundfile.write(path, np.random.default_rng(0).uniform(-0.2, 0.2, 3 * RATE), RATE)


def make_cut(path):
    make_noise(path)
    cut(path, 0.5)


BAD_FILES = [
    ("a.wav", make_missing, "does not exist"),
    ("a.wav", make_empty, r"is empty \(0 bytes\)"),
    ("a.wav", make_folder, "is a folder"),
    ("a.wav", make_pipe, "is a pipe or a device.*; save it as a file first, or pipe it into serstream run --source -"),
    ("a.wav", make_text, "is not audio that can be read"),
    ("a.mp3", make_text, "is not audio that can be read"),
    ("a.wav", make_header_alone, "holds no samples"),
    ("a.wav", make_absurd_rate, "says that it has 500000 samples a second; allowed are up to 384000"),
    ("a.wav", make_cut_header, "is not audio that can be read"),
    ("a.wav", make_cut, "is cut off: it holds 47978 of the 96000 bytes"),
    ("a.flac", make_cut, "is damaged or cut off after"),
    ("a.mp3", make_cut, r"is cut off: it holds 1\.\d\d s of the 3\.\d\d s"),
]


@pytest.mark.parametrize(("name", "spoil", "sentence"), BAD_FILES)
def test_a_file_that_cannot_be_read_whole_is_a_sentence(tmp_path, name, spoil, sentence):
    path = tmp_path / name
    spoil(path)
    with pytest.raises(SourceError, match=sentence) as caught:
        whole(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "spoil", "sentence"), BAD_FILES[:10])
def test_a_source_whose_file_is_seen_to_be_bad_does_not_open(tmp_path, name, spoil, sentence):
    spoil(tmp_path / name)
    with pytest.raises(SourceError, match=sentence):
        SoundFile(FileSource(str(tmp_path / name))).open()


def test_the_descriptor_of_a_pipe_is_refused_as_one():
    read_fd, write_fd = os.pipe()
    os.write(write_fd, wav(tone(0.1, RATE), RATE))
    with pytest.raises(SourceError, match=rf"/dev/fd/{read_fd} is a pipe"):
        whole(f"/dev/fd/{read_fd}")
    os.close(read_fd)
    os.close(write_fd)


def test_a_file_that_we_may_not_read_is_a_sentence(tmp_path):
    path = tmp_path / "secret.wav"
    soundfile.write(path, tone(0.1, RATE), RATE)
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65_534)
        with pytest.raises(SourceError, match="cannot be read: Permission denied"):
            whole(path)
    finally:
        os.seteuid(user)


def test_a_wav_written_into_a_pipe_has_no_size_to_keep(tmp_path):
    path = tmp_path / "piped.wav"
    soundfile.write(path, tone(1, RATE), RATE, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    assert whole(path).size == RATE


def without_tag(path):
    """Remove the first MPEG frame, which holds the length instead of sound."""
    data = path.read_bytes()
    path.write_bytes(data[data.index(data[:2], 4) :])


def test_an_mp3_without_a_tag_makes_no_promise_of_its_length(tmp_path):
    path = tmp_path / "untagged.mp3"
    options = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    soundfile.write(path, tone(3, RATE), RATE, format="MP3", **options)
    without_tag(path)
    cut(path, 0.5)
    assert whole(path).size == pytest.approx(1.5 * RATE, abs=2000)


def test_an_mp3_whose_end_would_be_left_out_without_a_word_is_refused(tmp_path):
    path = tmp_path / "variable.mp3"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.2, 0.2, 20 * RATE), RATE)
    without_tag(path)
    with pytest.raises(SourceError, match=r"does not say how long it is, and would be read to \d+\.\d\d s alone"):
        whole(path)


def test_refused_files_leave_no_descriptor_open(tmp_path):
    make_text(tmp_path / "a.wav")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(SourceError):
            whole(tmp_path / "a.wav")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_analysis_refuses_a_sample_that_is_not_finite_and_says_where(tmp_path, bad):
    y = tone(1, 8_000, channels=2)
    y[2000, 1] = bad
    soundfile.write(tmp_path / "bad.wav", y, 8_000, subtype="FLOAT")
    with pytest.raises(SourceError, match=r"no finite number at 0\.250 s"):
        whole(tmp_path / "bad.wav")


def test_analysis_refuses_a_sample_that_is_too_loud_for_a_filter_and_says_where(tmp_path):
    y = tone(1, 8_000, channels=2)
    y[2000, 1] = 1e11
    soundfile.write(tmp_path / "bad.wav", y, 8_000, subtype="FLOAT")
    with pytest.raises(SourceError, match=r"beyond 1e\+10 times full scale at 0\.250 s"):
        whole(tmp_path / "bad.wav")


@pytest.mark.parametrize("loud", [1e11, 3e38])
@pytest.mark.parametrize("rate", [8_000, RATE, 48_000])
def test_what_is_too_loud_for_a_filter_is_replaced_like_what_is_not_finite(rate, loud):
    y = tone(1, rate)
    y[100:200] = loud
    resampler = Resampler(rate, RATE)
    out = resampler.push(y, last=True)
    assert np.abs(out).max() < 2.0
    assert resampler.non_finite == 100
    y[100:200] = 1e9  # integers that nobody scaled
    assert Resampler(rate, RATE).push(y, last=True).max() > 1e8


def test_a_source_replaces_what_is_not_finite_and_says_how_much(tmp_path):
    y = tone(1, RATE)
    y[2000:2003] = np.nan
    soundfile.write(tmp_path / "bad.wav", y, RATE, subtype="FLOAT")
    source = SoundFile(FileSource(str(tmp_path / "bad.wav"), realtime=False))
    source.open()
    items = drain(source)
    holes = [item for item in items if isinstance(item, Hole)]
    assert [(h.phase, h.cause, h.lost_samples) for h in holes] == [
        ("start", "non_finite", 3),
        ("end", "non_finite", 3),
    ]
    y[2000:2003] = 0
    np.testing.assert_array_equal(samples_of(items), y[:, 0])
    assert source.counters["non_finite"] == 3
    assert_continuous(items)
    assert_balanced(source)


def test_a_file_as_a_source_gives_the_samples_of_the_analysis(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.7, 44_100), 44_100)
    source = SoundFile(FileSource(str(tmp_path / "a.wav"), realtime=False))
    source.open()
    items = drain(source)
    np.testing.assert_array_equal(samples_of(items), whole(tmp_path / "a.wav"))
    assert all(item.captured_s is None for item in items)
    assert_continuous(items)
    assert_balanced(source)


def test_in_real_time_a_file_takes_as_long_as_it_sounds(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.4, 44_100), 44_100)
    source = SoundFile(FileSource(str(tmp_path / "a.wav")))
    source.open()
    begin = time.monotonic()
    while not source.ended:
        block = source.read(0.02)
        if block is not None:
            assert block.captured_s <= time.monotonic()
            assert block.captured_s >= begin + (block.first_sample + block.samples.size) / RATE
    assert 0.4 <= time.monotonic() - begin < 1.4
    assert_balanced(source)


def test_a_looped_file_goes_on_without_a_jump_in_the_index(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.1, RATE), RATE)
    source = SoundFile(FileSource(str(tmp_path / "a.wav"), realtime=False, loop=True))
    source.open()
    items = [source.read(1.0) for _ in range(5)]
    assert_continuous(items)
    assert items[-1].first_sample > 1600
    assert not source.ended
    assert_balanced(source)


def test_a_muted_file_pauses_and_loses_nothing(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.3, RATE), RATE)
    source = SoundFile(FileSource(str(tmp_path / "a.wav")))
    source.open()
    items = [source.read(1.0)]
    source.mute()
    items.append(source.read(1.0))
    assert items[-1][:2] == ("start", "muted")
    assert source.status == "muted"
    assert source.read(0.05) is None
    source.unmute()
    items += drain(source)
    assert items[2] == Hole("end", "muted", items[1].first_sample, 0, False)
    assert source.counters["muted"] == 0
    assert samples_of(items).size == 4800
    assert_continuous(items)
    assert_balanced(source)


# --- standard input ---


@contextmanager
def piped(data, *, config, piece=None, close=True):
    """A source that reads a pipe into which another thread writes."""
    read_fd, write_fd = os.pipe()

    def write():
        for at in range(0, len(data), piece or len(data) or 1):
            os.write(write_fd, data[at : at + (piece or len(data))])
        if close:
            os.close(write_fd)

    thread = threading.Thread(target=write)
    thread.start()
    source = Stdin(config, read_fd)
    source.open()
    try:
        yield source
    finally:
        thread.join()
        source.close()
        os.close(read_fd)
        if not close:
            os.close(write_fd)


def pcm(y, format_):
    scale = {"s16le": ("<i2", 2**15), "s32le": ("<i4", 2.0**31), "f32le": ("<f4", 1)}[format_]
    return (y * scale[1]).astype(scale[0]).tobytes()


def wav(y, rate, *, tag=1, bits=16, body=None, size=None, extra=b""):
    body = pcm(y, "s16le") if body is None else body
    channels = y.shape[1]
    frame = channels * bits // 8
    format_ = struct.pack("<HHIIHH", tag, channels, rate, rate * frame % 2**32, frame, bits)
    chunks = b"LIST" + struct.pack("<I", 3) + b"abc\0" + b"fmt " + struct.pack("<I", len(format_)) + format_
    chunks += b"data" + struct.pack("<I", len(body) if size is None else size) + body + extra
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


@pytest.mark.parametrize("format_", ["s16le", "s32le", "f32le"])
@pytest.mark.parametrize("piece", [7, 4096])
def test_pcm_arrives_whatever_its_format_and_the_cuts_of_the_pipe(format_, piece):
    y = tone(0.2, RATE)
    y[:, 0] = np.round(y[:, 0] * 2**14) / 2**14  # exact in every format
    with piped(pcm(y, format_), config=StdinSource(format=format_), piece=piece) as source:
        items = drain(source)
        np.testing.assert_array_equal(samples_of(items), y[:, 0])
        assert_continuous(items)
        assert_balanced(source)


def test_pcm_of_another_rate_and_two_channels_is_mixed_and_resampled():
    y = tone(1, 48_000, channels=2)
    with piped(pcm(y, "s16le"), config=StdinSource(sample_rate=48_000, channels=2)) as source:
        heard = samples_of(drain(source))
    assert heard.size == RATE
    assert peak_hz(heard) == pytest.approx(440, abs=2)


def test_a_last_frame_that_is_cut_is_dropped_and_counted():
    with piped(pcm(tone(0.1, RATE), "s16le") + b"\x01", config=StdinSource()) as source:
        assert samples_of(drain(source)).size == 1600
        assert source.counters["partial_frames"] == 1


@pytest.mark.parametrize("piece", [1, 50, None])
def test_a_riff_header_replaces_format_rate_and_channels(piece):
    y = tone(0.05, 8_000, channels=2)
    data = wav(y, 8_000, tag=3, bits=32, body=pcm(y, "f32le"), extra=b"LIST\x04\0\0\0more")
    with piped(data, config=StdinSource(), piece=piece) as source:
        assert samples_of(drain(source)).size == 800


def test_a_riff_header_of_unknown_size_is_read_to_the_end():
    with piped(wav(tone(0.1, RATE), RATE, size=0xFFFF_FFFF), config=StdinSource()) as source:
        assert samples_of(drain(source)).size == 1600


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "ended before its first sample"),
        (wav(tone(0.1, RATE), RATE)[:40], "ended before its first sample"),
        (wav(tone(0.1, RATE), RATE, tag=2, bits=4), "format 2 with 4 bits"),
        (wav(tone(0.1, RATE), 4_000_000_000), "1 channels and 4000000000 Hz; allowed .* 4000 to 384000 Hz"),
        (wav(tone(0.1, RATE), 3_999), "3999 Hz; allowed"),
        (wav(tone(0.01, RATE, channels=65), RATE), "65 channels and 16000 Hz; allowed .* 1 to 64 channels"),
        (wav(tone(0.1, RATE), 0), " 0 Hz; allowed"),
    ],
)
def test_standard_input_without_sound_is_a_sentence(data, sentence):
    with piped(data, config=StdinSource()) as source, pytest.raises(SourceError, match=sentence):
        drain(source)


def test_a_silent_pipe_holds_nobody_up():
    with piped(b"", config=StdinSource(), close=False) as source:
        begin = time.monotonic()
        assert source.read(0.1) is None
        assert time.monotonic() - begin < PROMPT_S
        assert not source.ended


def test_a_pipe_that_has_gone_silent_is_stalled_until_it_brings_something_and_loses_nothing():
    data = pcm(tone(0.1, RATE), "s16le")
    read_fd, write_fd = os.pipe()
    source = Stdin(StdinSource(), read_fd, stall_s=0.2)
    source.open()
    assert source.status == "starting"
    items, deadline = [], time.monotonic() + 10
    for _ in range(2):
        while source.status != "stalled":
            assert time.monotonic() < deadline
            assert source.read(0.05) is None
        os.write(write_fd, data)
        items.append(source.read(1.0))
        assert source.status == "running"
    source.mute()
    assert source.status == "muted"
    assert samples_of(items).size == 3200
    assert_continuous(items)
    assert_balanced(source)
    os.close(read_fd)
    os.close(write_fd)


def test_a_pipe_that_brings_nothing_but_zeros_has_a_fault_until_it_sounds():
    read_fd, write_fd = os.pipe()
    source, found = Stdin(StdinSource(silence_s=1.0), read_fd), []
    source.open()
    for data in (bytes(RATE * 3), pcm(tone(1.0, RATE), "s16le")):
        os.write(write_fd, data)
        while source.read(0.1) is not None:
            pass
        found.append(source.fault)
    assert found == ["silence", None]
    os.close(read_fd)
    os.close(write_fd)


def test_what_is_said_into_a_muted_pipe_is_thrown_away_and_counted():
    data = pcm(tone(0.1, RATE), "s16le")
    read_fd, write_fd = os.pipe()
    source = Stdin(StdinSource(), read_fd)
    source.open()
    os.write(write_fd, data)
    items = [source.read(1.0)]
    source.mute()
    items.append(source.read(1.0))
    os.write(write_fd, data)
    assert source.read(0.2) is None
    source.unmute()
    items.append(source.read(1.0))
    os.write(write_fd, data)
    os.close(write_fd)
    items += drain(source)
    assert items[2] == Hole("end", "muted", 3200, 1600, False)
    assert source.counters["muted"] == 1600
    assert samples_of(items).size == 3200
    assert_continuous(items)
    assert_balanced(source)
    os.close(read_fd)


def test_a_terminal_or_a_folder_as_standard_input_is_a_sentence(tmp_path):
    master, terminal = pty.openpty()
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(SourceError, match="is a terminal"):
        Stdin(StdinSource(), terminal).open()
    with pytest.raises(SourceError, match="is a folder"):
        Stdin(StdinSource(), folder).open()
    for fd in (master, terminal, folder):
        os.close(fd)
    with pytest.raises(SourceError, match="is closed"):
        Stdin(StdinSource(), folder).open()


# --- test signals, and the choice among sources ---


@pytest.mark.parametrize(
    "config", [MicrophoneSource(), StdinSource(), NetworkSource(), SyntheticSource(), FileSource("a.wav")]
)
def test_every_source_counts_every_loss_from_0(config):
    counters = make(config).counters
    assert [counters[name] for name in ("input_overflows", "ring_overruns", "non_finite")] == [0, 0, 0]
    assert [counters[name] for name in ("device_lost", "stalled", "muted", "worker_restart")] == [0, 0, 0, 0]


@pytest.mark.parametrize("signal", ["silence", "tone", "noise"])
def test_a_test_signal_is_the_same_every_time_and_as_loud_as_configured(signal):
    config = SyntheticSource(signal=signal, level_dbfs=-26.0, duration_s=1.01, seed=3, realtime=False)
    first, second = (samples_of(drain(Synthetic(config))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.size == round(1.01 * RATE)
    level = np.sqrt(np.mean(first**2))
    assert level == 0 if signal == "silence" else 20 * np.log10(level) == pytest.approx(-26, abs=0.2)


def test_a_source_closed_in_the_middle_accounts_for_what_was_not_read():
    source = Synthetic(SyntheticSource())
    source.open()
    assert isinstance(source.read(1.0), Block)
    assert source.read(0.0) is None  # fetched, not due
    assert_balanced(source)
    assert source.counters["unread"] == 800
    assert source.ended
    source.close()


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (MicrophoneSource(), Microphone),
        (FileSource("a.wav"), SoundFile),
        (StdinSource(), Stdin),
        (NetworkSource(), Remote),
        (SyntheticSource(), Synthetic),
    ],
)
def test_every_kind_of_configuration_makes_its_source(config, kind):
    assert type(make(config)) is kind


def test_the_demo_begins_at_once_and_in_real_time():
    try:
        source = make(DemoSource())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    source.open()
    block = source.read(2.0)
    assert block.samples.size
    assert block.captured_s is not None
    assert_balanced(source)


# --- in the place of another, whose worker has died


def gone_on(source, first_sample, **counters):
    """Return what a source gives that goes on at a sample, as one that nobody has heard before."""
    source.go_on(Resume(first_sample, time.monotonic(), counters, emotions=0, slept_s=0.0))
    source.open()
    end, *items = drain(source)
    assert end == Hole("end", "worker_restart", first_sample, 0, False)
    assert items[0].first_sample == first_sample
    counted = source.counters
    assert counted["captured"] == counters.get("captured", 0) + samples_of(items).size
    return samples_of(items)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_file_goes_on_where_another_left_it(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(2, RATE), RATE)
    rest = gone_on(SoundFile(FileSource(str(path), realtime=False)), 20_000, captured=20_000, consumed=20_000)
    np.testing.assert_allclose(rest, whole(path)[20_000:], atol=1e-6)


def test_a_file_of_another_rate_goes_on_to_its_end(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(2, 44_100), 44_100)
    rest = gone_on(SoundFile(FileSource(str(tmp_path / "a.wav"), realtime=False)), 20_000)
    assert rest.size == 12_000
    assert peak_hz(rest) == pytest.approx(440.0, abs=2.0)


def test_a_file_that_was_read_to_its_end_is_not_read_again(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1, RATE), RATE)
    source = SoundFile(FileSource(str(tmp_path / "a.wav"), realtime=False))
    source.go_on(Resume(RATE, time.monotonic(), {}, emotions=0, slept_s=0.0))
    source.open()
    assert drain(source) == [Hole("end", "worker_restart", RATE, 0, False)]


def test_a_file_that_is_played_again_and_again_goes_on_within_it(tmp_path):
    y = np.linspace(-0.5, 0.5, 5_000, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", y, RATE, subtype="FLOAT")
    source = SoundFile(FileSource(str(tmp_path / "a.wav"), realtime=False, loop=True))
    source.go_on(Resume(11_000, time.monotonic(), {}, emotions=0, slept_s=0.0))
    source.open()
    source.read(0.0)
    heard = np.concatenate([source.read(5.0).samples for _ in range(12)])
    source.close()
    np.testing.assert_array_equal(heard[:9_000], np.concatenate([y[1_000:], y]))


def test_a_test_signal_goes_on_in_step_and_in_its_time():
    config = SyntheticSource(duration_s=1.0, realtime=False)
    unbroken = Synthetic(config)
    rest = gone_on(Synthetic(config), 5_000)
    np.testing.assert_allclose(rest, samples_of(drain(unbroken))[5_000:], atol=1e-6)
    begin = time.monotonic()
    gone_on(Synthetic(SyntheticSource(duration_s=3600.0)), round(3599.9 * RATE))
    assert time.monotonic() - begin < 60.0, "not as long as it all sounds"
