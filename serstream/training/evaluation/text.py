"""What the report says between its tables."""

HEAD = """# Evaluation

Made by `python -m serstream.training report docs/evaluation` from the counts in `results/`, which
`python -m serstream.training evaluate MODEL --data DATA --full --out docs/evaluation/results/NAME.json` wrote. Every
figure went through the runtime's own pipeline, in int8, on speakers that the model was not trained, tuned or calibrated
on.

Three columns say what the model may know of a voice:

- **none**: nothing. The mean that cepstra are measured against stays where training left it.
- **online**: what it heard before. One state a speaker, clips in five random orders; *cold* takes every clip by itself,
  *warm* counts only clips behind 30 s of speech.
- **enrolled**: as `serstream enroll` makes it, from clips that are never scored: on RAVDESS the actor's neutral clips
  (spoken; the five classes leave them out), elsewhere half of the speaker's neutral clips.

A clip's answer is the largest of its posterior over the whole clip, and a clip without speech counts as wrong. Folds of
a seed are pooled; ± is the standard deviation over seeds, brackets hold the 95 % interval of 2000 draws of speakers.
"""
BARS = """## Bars

`online` is what the daemon does as long as nobody is enrolled.

"""
RUNS = """## What this rests on

"""
EIGHT = """## Eight classes

The largest of the network's eight outputs, on every clip; enrolled on half of the neutral clips, which that column
leaves out.

"""
FOLDS = """## Fold by fold

Every choice was made on the speakers of folds 1 and 3. Those of 2, 4 and 5 were scored once by an earlier recipe, whose
gate was a detector apart, and once by this one; between the two nothing was chosen by them.

"""
SECONDS = """## Seconds heard

UAR of the answer so long after speech began. A posterior needs half a second of speech, and a clip that is over keeps
its answer.

"""
INT8 = """## Float against int8

The float network and the int8 model on the same clips, column none.

"""
ROBUSTNESS = """## Robustness

Share of decisions that a condition leaves as they are (and the change of UAR), in the manner of audEERING's ser-tests.
Gain is not clipped; noise is so far below the speech; recorded noise is ESC-50 fold 3 without people, and background
noise. Enrolment is clean: the condition came later.

"""
STREAMS = """## Streams

A speaker's clips in one stream, with pauses of 1 to 2 s over a floor of -60 dBFS.

"""
NOISE = """## Noise

Emotion events per hour of sound without speech, joined without a reset, with a 95 % Poisson interval. Training hears
other files of the same classes. Enrolled is one speaker's profile.

"""
READING = """## Reading

LibriSpeech, every second of its speakers: people who read aloud. Those with several recordings enrol on half of them,
so that column has these alone.

"""
