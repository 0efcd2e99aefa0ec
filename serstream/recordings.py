"""Recordings (WAV, FLAC, OGG, MP3), read as mono at 16 kHz or refused in a sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.config import MOST_RATE_HZ, SAMPLE_RATE
from serstream.errors import SourceError
from serstream.resampler import LOUDEST, Resampler, is_sound

BLOCK_S = 0.05
WHOLE_BLOCK_S = 1.0
"""Of a recording that is read as fast as it can be: every block costs a call of each library."""
_MOST_VALUES = 2**22
"""So many samples of all channels are read together at most."""
_UNKNOWN_SIZE = 0x7FFF_F000
"""Programs that write a WAV into a pipe promise this much or more, since they cannot know."""
_HEAD_BYTES = 65_536
_ABSURD_FRAMES = 2**50
_TAG_WITHIN = 1024
_TRAILING_BYTES = 16_384
_MP3_PADDING = 2304
_RUN_UP_S = 0.5
"""An MP3 decoder needs what is before a place to decode what is there."""


def read_file(path: str | Path, block_s: float = WHOLE_BLOCK_S) -> Iterator[NDArray[np.float32]]:
    """Yield a recording as mono blocks at 16 kHz, whatever its format, rate and channels.

    Parameters
    ----------
    path : str or Path
        WAV, FLAC, OGG or MP3.
    block_s : float
        Length of a block before resampling, in seconds; the samples do not depend on it.

    Yields
    ------
    ndarray of float32, shape (n_samples,)
        Full scale 1.0.

    Raises
    ------
    SourceError
        If the file cannot be read whole, or holds a sample that is no sound. Some of these faults show at
        the end alone, after blocks were yielded.
    """
    for samples, _ in decode(Path(path), block_s, strict=True):
        yield samples


def decode(
    path: Path, block_s: float, *, strict: bool, first_sample: int = 0
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield blocks from a sample (at 16 kHz) on, and how many in each were not finite; refuse these if ``strict``."""
    with open_file(path) as file:
        rate = int(file.samplerate)
        done = _seek(file, path, round(first_sample * rate / SAMPLE_RATE))
        resampler = Resampler(rate, SAMPLE_RATE)
        n_frames = max(1, min(int(block_s * rate), _MOST_VALUES // file.channels))
        while True:
            block = _read_frames(file, path, n_frames, done)
            if strict:
                _refuse_non_finite(block, path, done, rate)
            before = resampler.non_finite
            samples = resampler.push(block, last=len(block) == 0)
            replaced = (resampler.non_finite - before) * SAMPLE_RATE
            if samples.size or replaced:
                yield samples, -(-replaced // rate)
            if len(block) == 0:
                break
            done += len(block)
        promised = _promised(file, path)
        _refuse_short(path, done, promised, rate, _slack(file))
        if file.format == "MP3" and not promised:
            _refuse_unread(file, path, done / rate)


def open_file(path: Path) -> Any:
    """Open an audio file, or say what is wrong with it."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # opening a pipe can hang
        raise SourceError(
            f"{path} is a pipe or a device, and only a file can be read so; save it as a file first, "
            "or pipe it into serstream run --source -"
        )
    try:
        with path.open("rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            head = raw.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        raise SourceError(f"{path} does not exist; name a WAV, FLAC, OGG or MP3 file") from error
    except IsADirectoryError as error:
        raise SourceError(f"{path} is a folder; name a WAV, FLAC, OGG or MP3 file in it") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}; name a readable file") from error
    if not head:
        raise SourceError(f"{path} is empty (0 bytes); name a WAV, FLAC, OGG or MP3 file with sound in it")
    _refuse_cut_wav(path, head, size)
    return _open_sound(path)


@cache
def _sequential() -> Any:
    """Return the class of a file that is read from its beginning to its end."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise SourceError(f"libsndfile is missing ({error}); sudo apt install libsndfile1") from error

    class Sequential(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            """Say no, or soundfile seeks after every read, which makes an MP3 decoder forget."""
            return False

    return Sequential


def _open_sound(path: Path) -> Any:
    sequential = _sequential()
    import soundfile

    try:
        file = sequential(os.open(path, os.O_RDONLY | os.O_CLOEXEC), closefd=True)
    except soundfile.LibsndfileError as error:
        raise SourceError(
            f"{path} is not audio that can be read ({_why(error)}); allowed are WAV, FLAC, OGG and MP3, uncut"
        ) from error
    if file.frames == 0:
        file.close()
        raise SourceError(f"{path} holds no samples; name a file with sound in it")
    if file.samplerate > MOST_RATE_HZ:
        file.close()
        raise SourceError(
            f"{path} says that it has {file.samplerate} samples a second; allowed are up to {MOST_RATE_HZ}, "
            "so save it with the rate that it has"
        )
    return file


def _why(error: Any) -> str:
    reason = str(error.error_string).removeprefix("Error : ").rstrip(".")
    return reason[:1].lower() + reason[1:]


def _seek(file: Any, path: Path, frame: int) -> int:
    """Go to a sample frame, or to the end if there is none; return where that is."""
    import soundfile

    if not frame:
        return 0
    run_up = round(_RUN_UP_S * file.samplerate)
    try:
        begin = int(file.seek(max(0, min(frame, int(file.frames)) - run_up)))
        return begin + len(file.read(min(frame - begin, run_up)))
    except soundfile.LibsndfileError as error:
        raise SourceError(
            f"{path} cannot be read from {frame / file.samplerate:.2f} s on ({_why(error)}); convert it to FLAC or WAV"
        ) from error


def _read_frames(file: Any, path: Path, n_samples: int, done: int) -> NDArray[np.float32]:
    import soundfile

    try:
        block: NDArray[np.float32] = file.read(n_samples, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise SourceError(
            f"{path} is damaged or cut off after {done / file.samplerate:.2f} s ({_why(error)}); get a whole copy"
        ) from error
    return block


def _refuse_non_finite(block: NDArray[np.float32], path: Path, done: int, rate: int) -> None:
    good = is_sound(block).all(axis=1)
    if not good.all():
        at = int(np.argmin(good))
        said = f"beyond {LOUDEST:g} times full scale" if np.isfinite(block[at]).all() else "that is no finite number"
        raise SourceError(f"{path} holds a sample {said} at {(done + at) / rate:.3f} s; export it again")


def _promised(file: Any, path: Path) -> int:
    """Return the sample frames that the file's header is sure to promise, 0 where libsndfile only guesses.

    An OGG without an end has an absurd length; an MP3 has an exact one only if its encoder wrote a Xing or
    Info tag, and even then :func:`_slack` samples of padding are not sure.
    """
    frames = int(file.frames)
    if file.format != "MP3":
        return frames if frames < _ABSURD_FRAMES else 0
    with path.open("rb") as raw:
        head = raw.read(10)
        if head[:3] == b"ID3":
            size = head[6:10]
            raw.seek(10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]))
        first = raw.read(_TAG_WITHIN)
    exact = b"Xing" in first or b"Info" in first
    return frames if exact else 0


def _refuse_unread(file: Any, path: Path, done_s: float) -> None:
    """Refuse an MP3 without a tag that libsndfile leaves before its end: its guess was too low."""
    left = os.fstat(file.name).st_size - os.lseek(file.name, 0, os.SEEK_CUR)
    if left > _TRAILING_BYTES:
        raise SourceError(
            f"{path} does not say how long it is, and would be read to {done_s:.2f} s alone; "
            "convert it, for example with ffmpeg, to FLAC or WAV"
        )


def _slack(file: Any) -> int:
    return int(file.frames) // 100 + _MP3_PADDING if file.format == "MP3" else 0


def _refuse_short(path: Path, done: int, promised: int, rate: int, slack: int) -> None:
    if done < promised - slack:
        raise SourceError(
            f"{path} is cut off: it holds {done / rate:.2f} s of the {promised / rate:.2f} s that its header "
            "promises; get a whole copy"
        )


def _refuse_cut_wav(path: Path, head: bytes, size: int) -> None:
    """Compare a WAV header with the size of the file, since libsndfile reads what is there without a word."""
    if (riff := parse_riff(head, str(path))) is None or riff.data_bytes is None:
        return
    there = size - riff.data_at
    if there < riff.data_bytes:
        raise SourceError(
            f"{path} is cut off: it holds {there} of the {riff.data_bytes} bytes of sound that its header "
            "promises; get a whole copy"
        )


class Riff(NamedTuple):
    """What a WAV header says: ``format`` (tag, bits); ``data_bytes`` None where the writer could not know."""

    format: tuple[int, int]
    sample_rate: int
    channels: int
    data_at: int
    data_bytes: int | None


def parse_riff(head: bytes, name: str) -> Riff | None:
    """Read a WAV header; None when ``head`` is none or does not reach to its data chunk.

    Raises
    ------
    SourceError
        If the header has no format before its data.
    """
    if not is_riff(head):
        return None
    at = 12
    format_: tuple[int, int, int, int] | None = None
    while len(head) >= at + 8:
        kind, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        body = head[at + 8 : at + 8 + size]
        if kind == b"data":
            if format_ is None:
                raise SourceError(f"{name} has a WAV header without a format; write it again as 16-bit PCM")
            tag, bits, rate, channels = format_
            known = 0 < size < _UNKNOWN_SIZE
            return Riff((tag, bits), rate, channels, at + 8, size if known else None)
        if kind == b"fmt " and len(body) >= 16:
            format_ = _parse_format(body)
        at += 8 + size + size % 2
    return None


def is_riff(head: bytes) -> bool:
    """Whether this is how a WAV begins."""
    return head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE"


def _parse_format(body: bytes) -> tuple[int, int, int, int]:
    number = int.from_bytes
    tag = number(body[0:2], "little")
    if tag == 0xFFFE and len(body) >= 26:  # extensible: the tag is the beginning of its GUID
        tag = number(body[24:26], "little")
    return tag, number(body[14:16], "little"), number(body[4:8], "little"), number(body[2:4], "little")
