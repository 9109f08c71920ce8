"""A recurrent detector of speech (Silero VAD) in int8 by ONNX Runtime, NNCF and Penjing: how far probabilities drift.

    python -m benchmarks.quantize_silero [--streams 40] [--frames 256] [--seconds 2] [--only 'penjing*']

Trained weights (PyPI: silero-vad). The file takes a frame of 32 ms and the state of its LSTM, and gives the probability
of speech and the next state; each row feeds its own states back, so that errors add up along a stream as in use. There
are no recordings to be had: streams are synthesised, voiced by a pulse train in the formants of vowels, with hisses,
pauses and noise, which the detector takes for speech where there is voice. Calibration frames are of other streams.
"""

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import penjing as pj
from benchmarks.common import record
from benchmarks.rivals import (
    LOOSE,
    OPENVINO,
    OPENVINO_BF16,
    ORT,
    Batch,
    Case,
    Floats,
    Rival,
    chosen,
    floating,
    make_all,
    make_here,
    nncf_int8,
    options,
    ort_dynamic,
    ort_static,
    penjing,
    share,
    speed,
)
from penjing.runtimes import Artifact

RATE, FRAME, CONTEXT = 16_000, 512, 64
"""Hertz; samples of a frame; samples of the last frame that come before it."""
STATE = (1, 1, 128)
SECONDS = 5.0
VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
    (660, 1720, 2410),
)
"""First three formants of vowels in hertz, after Peterson and Barney 1952, doi:10.1121/1.1906875."""

RIVALS: dict[str, Rival] = {
    "float32": floating(ORT, OPENVINO, OPENVINO_BF16),
    "onnxruntime.quantization, dynamic": ort_dynamic(),
    "onnxruntime.quantization, static per channel": ort_static(per_channel=True),
    "nncf.quantize": nncf_int8(OPENVINO),
    "penjing Quantize()": penjing(pj.Quantize(), *LOOSE),
}
"""What is compared; a recipe of Penjing is one line more."""


def voice(seconds: float, seed: int) -> Floats:
    """Something like speech with pauses and noise, [samples] at 16 kHz; the same for the same seed."""
    rng = np.random.default_rng(seed)
    pitch = rng.uniform(90, 220)
    parts: list[Floats] = []
    while sum(map(len, parts)) < seconds * RATE:
        kind = rng.random()
        if kind < 0.12:
            parts.append(np.zeros(int(rng.uniform(0.3, 1.2) * RATE)))
        elif kind < 0.45:
            parts.append(hiss(rng))
        else:
            parts.append(vowel(pitch, rng))
    sound = np.concatenate(parts)[: int(seconds * RATE)]
    sound *= rng.uniform(0.2, 0.9) / np.abs(sound).max()
    return sound + rng.normal(size=len(sound)) * 10 ** rng.uniform(-4.5, -1.5)


def hiss(rng: np.random.Generator) -> Floats:
    """Noise about a frequency, as of an "s"."""
    from scipy.signal import lfilter

    noise = rng.normal(size=int(rng.uniform(0.05, 0.12) * RATE))
    return 0.03 * np.asarray(lfilter([1.0], resonance(rng.uniform(1500, 6000), 1200), noise)) * np.hanning(len(noise))


def vowel(pitch: float, rng: np.random.Generator) -> Floats:
    """A pulse train of gliding pitch through three resonances."""
    from scipy.signal import lfilter

    n = int(rng.uniform(0.1, 0.3) * RATE)
    tone = pitch * np.exp(rng.normal(0, 0.08) + np.linspace(0, rng.normal(0, 0.12), n))
    cycles = np.cumsum(tone) / RATE
    sound = np.diff(np.floor(cycles), prepend=0.0) - tone / RATE + 0.01 * rng.normal(size=n)
    sound = np.asarray(lfilter([1.0], [1.0, -0.95], sound))
    for formant, width in zip(VOWELS[rng.integers(len(VOWELS))], (80, 100, 150), strict=True):
        poles = resonance(formant * rng.uniform(0.9, 1.1), width)
        sound = np.asarray(lfilter([sum(poles)], poles, sound))
    return 0.3 * rng.uniform(0.3, 1.0) * sound * np.sqrt(np.hanning(n))


def resonance(frequency: float, width: float) -> list[float]:
    """Denominator of a resonance of two poles, at a frequency and of a width in hertz."""
    radius = float(np.exp(-np.pi * width / RATE))
    return [1.0, -2 * radius * float(np.cos(2 * np.pi * frequency / RATE)), radius**2]


def frames(sound: Floats) -> NDArray[np.float32]:
    """Frames of 512 samples, each after the 64 that come before it, [frames, 576].

    >>> frames(np.arange(1024.0)).shape, frames(np.arange(1024.0))[1, 0]
    ((2, 576), np.float32(448.0))
    """
    padded = np.pad(sound, (CONTEXT, 0))
    starts = range(0, len(sound) - FRAME + 1, FRAME)
    return np.stack([padded[i : i + FRAME + CONTEXT] for i in starts]).astype(np.float32)


def detector() -> torch.nn.Module:
    """Silero VAD for 16 kHz, the file that takes its state as two inputs."""
    spec = find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the detector of speech is not installed; pip install silero-vad")
    return pj.import_onnx(Path(spec.origin).parent / "data" / "silero_vad_16k_sequence.onnx")


def case(count: int) -> Case:
    """Calibration frames with the states that the float model has there, drawn from streams of their own."""
    model, seen = detector(), []
    with torch.inference_mode():
        for seed in range(8):
            h = c = torch.zeros(STATE)
            for frame in torch.from_numpy(frames(voice(SECONDS, 1000 + seed))).split(1):
                seen.append((frame, h, c))
                _, h, c = model(*seen[-1]).values()
    drawn = np.random.default_rng(0).permutation(len(seen))[:count]
    samples: list[Batch] = [tuple(tensor.clone() for tensor in seen[i]) for i in drawn]
    return Case(model, samples[0], samples, {})


def probabilities(artifact: Artifact, streams: Sequence[NDArray[np.float32]]) -> Floats:
    """Probability of speech in each frame of all streams, [frames], each row's states fed back to it."""
    session, found = artifact.load(), []
    for stream in streams:
        h = c = np.zeros(STATE, np.float32)
        for i in range(len(stream)):
            answer, h, c = session(stream[i : i + 1], h, c).values()
            found.append(float(np.asarray(answer).ravel()[0]))
    return np.array(found)


def compare(rows: dict[str, dict[str, Any]], found: dict[str, Floats], streams: NDArray[np.intp]) -> None:
    """Add to each row how far its probabilities are from the first row's, and how often the decision is the same."""
    reference, *_ = found.values()
    for name, answers in found.items():
        if answers is not reference:
            error = answers - reference
            same = ((answers > 0.5) == (reference > 0.5)).astype(np.float64)
            rows[name] |= {
                "largest_error": float(np.abs(error).max()),
                "rms_error": float(np.sqrt((error**2).mean())),
                "agreement": share(same, streams),
            }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, RIVALS, seconds=2.0)
    parser.add_argument("--streams", type=int, default=40, help="of 5 s, to compare answers on")
    parser.add_argument("--frames", type=int, default=256, help="to calibrate on")
    args = parser.parse_args(arguments)
    if args.make:
        make_here(RIVALS[args.make], case(args.frames), args.folder)
        return

    streams = [frames(voice(SECONDS, seed)) for seed in range(args.streams)]
    owners = np.repeat(np.arange(len(streams)), [len(stream) for stream in streams])
    rows: dict[str, dict[str, Any]] = {}
    artifacts: dict[str, Artifact] = {}
    forwarded = ("--frames", str(args.frames))
    with tempfile.TemporaryDirectory() as temporary:
        for title, row, artifact in make_all(__spec__.name, chosen(RIVALS, args.only), Path(temporary), forwarded):
            rows[title] = row
            if artifact is not None:
                artifacts[title] = artifact
        found = {title: probabilities(artifact, streams) for title, artifact in artifacts.items()}
        compare(rows, found, owners)
        reference, *others = artifacts
        state = torch.zeros(STATE)
        example = (torch.from_numpy(streams[0][20:21]), state, state)
        for title in others:
            rows[title]["faster"] = speed(artifacts[title], artifacts[reference], example, args.seconds)
            print(title, rows[title], flush=True)
    speech = float((found[reference] > 0.5).mean())
    size = {
        "streams": len(streams),
        "frames": len(owners),
        "speech": speech,
        "calibration": args.frames,
        "seconds": args.seconds,
    }
    record("quantize_silero", {**size, "rows": rows})


if __name__ == "__main__":
    main()
