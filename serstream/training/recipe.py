"""Everything that a training run depends on besides the prepared features: saved beside every result."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from serstream.training.corpora import RAVDESS_FOLDS, Clip, folds


class NetworkShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the network; the receptive field follows from them, and ``stride`` from how the trunk is built."""

    channels: int = 176
    first_kernel: int = 5
    kernel: int = 9
    n_blocks: int = 5
    dropout: float = 0.3
    stride: Literal[4] = 4

    @property
    def receptive_field_frames(self) -> int:
        """Frames that one output of the trunk sees."""
        return self.first_kernel + 2 * (self.kernel - 1) + self.n_blocks * self.stride * (self.kernel - 1)


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is trained.

    ``fold`` (1 to 5) is left out for test, with a few speakers of the next fold for validation; 0 trains on everyone.
    ``votes_weight`` is how much of the target is what listeners voted, where they did.
    An epoch is ``crops_per_epoch`` crops, ``corpus_shares`` of each corpus; ``clean_share`` of them come from clips as
    they are, the others from any rendering. ``heard_noise_share`` of the noise is such as is easily taken for speech.
    Before ``room_share`` of the crops the place was silent for long, and ``quiet_share`` are nothing but that.
    """

    fold: int = 0
    seed: int = 0
    epochs: int = 40
    crops_per_epoch: int = 4096
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clean_share: float = 0.3
    label_smoothing: float = 0.1
    votes_weight: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    mixup: float = 0.2
    voice_weight: float = 0.4
    segment_frames: int = 160
    evidence_frames: int = 64
    step_frames: int = 16
    min_segment_frames: int = 32
    prior_frames: float = 625.0
    profile_frames: float = 1875.0
    history_frames: int = 3750
    speech_weight: float = 1.0
    label_weight: float = 1.0
    gate_weight: float = 0.5
    heard_noise_share: float = 0.5
    room_share: float = 0.3
    quiet_share: float = 0.05
    corpus_shares: dict[str, Annotated[float, Meta(gt=0.0)]] = msgspec.field(
        default_factory=lambda: {
            "ravdess_speech": 0.4,
            "ravdess_song": 0.13,
            "crema_d": 0.37,
            "esc50": 0.12,
            "speechcommands_bg": 0.03,
        }
    )
    shape: NetworkShape = NetworkShape()
    licence: str = "CC-BY-NC-SA-4.0"

    @property
    def n_steps(self) -> int:
        """Batches of an epoch."""
        return self.crops_per_epoch // self.batch_size

    @property
    def n_outputs(self) -> int:
        """Outputs of the trunk in a segment."""
        return self.segment_frames // self.shape.stride

    @property
    def n_evidence(self) -> int:
        """Outputs of the trunk among which speech is counted for pooling."""
        return self.evidence_frames // self.shape.stride

    @property
    def window_frames(self) -> int:
        """Frames that the trunk needs for a whole segment."""
        return self.shape.receptive_field_frames + self.segment_frames - self.shape.stride


def split(clips: list[Clip], fold: int) -> dict[str, str]:
    """Assign each speaker to ``train``, ``validation`` or ``test``.

    Parameters
    ----------
    clips : list of Clip
        Everything of which speakers are divided into folds, by :func:`serstream.training.corpora.folds`.
    fold : int
        The fold to test on; 0 assigns everyone to ``train``. Of the next fold, two RAVDESS actors and up to four
        speakers of every other corpus, but at most half of them, validate.
    """
    speakers = folds(clips)
    if fold == 0:
        return dict.fromkeys(speakers, "train")
    following = fold % 5 + 1
    validation = {f"ravdess-A{a:02d}" for a in RAVDESS_FOLDS[following - 1][:2]}
    for corpus in {c.corpus for c in clips if not c.corpus.startswith("ravdess")}:
        next_ones = sorted({c.speaker for c in clips if c.corpus == corpus and speakers.get(c.speaker) == following})
        validation |= set(next_ones[: min(4, -(-len(next_ones) // 2))])
    return {s: "test" if f == fold else "validation" if s in validation else "train" for s, f in speakers.items()}
