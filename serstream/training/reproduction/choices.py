"""What the paper and its seed leave open, and what was chosen here: a sentence or two each, for the report."""

CHOICES = (
    "**Recordings.** The seed loads its files at 44.1 kHz. The recordings here are kept at 16 kHz and resampled "
    "to 44.1 kHz, so everything above 8 kHz is empty: 30 of the 128 mel bands lie wholly above it.",
    "**Clips.** RAVDESS speech of the five emotions, SAVEE's angry, fearful, happy and sad as male voices. The "
    "actors of fold 1 are left out as the yardstick, so every rung has a fifth fewer RAVDESS clips than the "
    "paper.",
    "**Features.** Seconds 0.5 to 3.0, 13 MFCC of librosa with its defaults, their mean in each frame, 216 "
    "numbers, unscaled. A short clip's missing frames are 0. *13 MFCC apart* keeps the matrix instead of the "
    "mean; *input scaled* standardises each of the 216 inputs by the training clips.",
    "**Division.** The seed's is random and unseeded, four fifths to train; here it is seeded. On the "
    "speaker-independent rung the speakers of fold 2, then of fold 3, test; three actors of the next fold choose "
    "the epoch. Each of SAVEE's four speakers belongs to a fold.",
    "**CNN.** The seed's layers, learning rate 1e-5 and decay 1e-6 (Keras' old decay: rate / (1 + decay x "
    "steps)). The paper names no loss: categorical cross-entropy. Batches of 32, of the seed's 16 or 32; 400 "
    "epochs instead of 700 to 1000.",
    "**MLP.** Eight layers, counted as Keras layer objects as the CNN's eighteen are: Dense 256, ReLU, Dense 256, "
    "ReLU, Dense 128, sigmoid, Dense 10, softmax. Adam with Keras' defaults, batches of 32, 550 epochs.",
    "**LSTM.** Five layers: LSTM 64, LSTM 32, Dense 32 with tanh, Dense 10, softmax; the 216 numbers are its 216 "
    "steps. SGD with Keras' default rate of 0.01, batches of 32, 50 epochs.",
    "**Accuracy of the paper.** It does not say of which epoch. Both the chosen and the last epoch are given; the "
    "ladder's table has the chosen one, which on the first two rungs the test clips themselves chose.",
    "**Ten classes as five.** The emotion of the class with the largest output.",
    "**Baseline.** 88 eGeMAPS functionals (openSMILE, eGeMAPSv02) of the whole clip at 16 kHz, standardised by "
    "the training clips, a linear SVM; its C is chosen from 0.001 to 1 by the clips that choose the networks' "
    "epoch.",
    "**Chance.** Keras' seeds are set and every fit has one thread; the same seed on the same machine gives the "
    "same figures.",
)
