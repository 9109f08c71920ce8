"""The pure functions of the benchmarks of quantisation: data is split and drawn as said, figures are right."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def room(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


def picture(seed: int = 0) -> Any:
    image = pytest.importorskip("PIL.Image")
    return image.fromarray(np.random.default_rng(seed).integers(0, 256, size=(300, 400, 3), dtype=np.uint8))


def test_no_photograph_both_calibrates_and_is_evaluated_on() -> None:
    pytest.importorskip("PIL")
    photos = room("photos").PHOTOS
    calibrating, evaluated = ({(p.package, p.name) for p in photos if p.calibrates is which} for which in (True, False))
    assert not calibrating & evaluated
    assert len(calibrating) + len(evaluated) == len(photos) == 48
    assert len(calibrating) == 12


def test_crops_are_the_same_for_the_same_seed_and_only_then() -> None:
    crops = room("photos").crops if pytest.importorskip("PIL") else None
    first = crops(picture(), 4, seed=1)
    assert first.shape == (4, 3, 224, 224)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, crops(picture(), 4, seed=1))
    assert not np.array_equal(first, crops(picture(), 4, seed=2))
    assert not np.array_equal(first[0], first[1])


def test_crops_have_the_range_that_the_network_was_trained_on() -> None:
    image = pytest.importorskip("PIL.Image")
    for level, expected in ((0, -1.0), (255, 1.0)):
        flat = image.new("RGB", (300, 300), (level, level, level))
        np.testing.assert_allclose(room("photos").crops(flat, 2, seed=0), expected)


def test_photographs_share_the_crops_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    photos = room("photos")
    monkeypatch.setattr(photos.Photo, "load", lambda _: picture())
    found, owners = photos.crops_of(photos.PHOTOS[:3], 8)
    assert len(found) == 8
    assert np.bincount(owners).tolist() == [3, 3, 2]


def test_a_photograph_that_is_missing_names_its_package() -> None:
    pytest.importorskip("PIL")
    with pytest.raises(FileNotFoundError, match="install the package mate-backgrounds"):
        room("photos").Photo("mate-backgrounds", "Nothing", calibrates=False).load()


def test_sentences_are_drawn_once_each_and_alike_each_time() -> None:
    drawn = room("sentences").drawn
    texts = [f"this is sentence number {i}, which is long enough" for i in range(50)]
    first = drawn([*texts, *texts, "too short"], 20)
    assert first == drawn(reversed(texts), 20)
    assert len(set(first)) == 20
    assert first != drawn(texts, 20, seed=1)
    with pytest.raises(ValueError, match="51 sentences are asked for and there are 50"):
        drawn(texts, 51)


def test_a_sentence_that_calibrates_is_not_evaluated_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = room("sentences")
    both = "a definition that a verb and a noun share"
    texts = {"noun": [both, "a definition of a noun alone, a long one"], "adj": [], "verb": [both] * 2}
    monkeypatch.setattr(sentences, "wordnet", lambda parts: [each for part in parts for each in texts[part]])
    assert sentences.evaluation(1) == ["a definition of a noun alone, a long one"]


def test_the_interval_of_clustered_samples_counts_clusters_not_samples() -> None:
    clustered = room("rivals").clustered
    rng = np.random.default_rng(0)
    by_cluster = (rng.random(40) < 0.7).astype(float)
    alike, owners = np.repeat(by_cluster, 50), np.repeat(np.arange(40), 50)
    whole, single = (clustered(alike, np.ones(2000), groups) for groups in (owners, np.arange(2000)))
    assert whole["value"] == single["value"] == by_cluster.mean()
    assert 5 < (whole["high"] - whole["low"]) / (single["high"] - single["low"]) < 10  # sqrt(50) = 7.1
    alone = clustered(by_cluster, np.ones(40), np.arange(40))
    assert whole["low"] == pytest.approx(alone["low"])


def test_a_share_lies_between_nothing_and_all() -> None:
    scores = np.ones(60)
    scores[0] = 0.0
    found = room("rivals").share(scores, np.repeat(np.arange(6), 10))
    assert 0 <= found["low"] < found["value"] == pytest.approx(59 / 60)
    assert found["high"] <= 1
    assert room("rivals").share(np.ones(4), np.arange(4)) == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_the_share_of_the_gap_that_is_closed() -> None:
    best = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0] * 10)
    ours = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0] * 10)
    found = room("rivals").share_closed(ours, best, np.arange(80))
    assert found["value"] == pytest.approx(0.5)
    assert found["low"] < 0.5 < found["high"]


def test_a_peer_of_weights_alone_is_not_the_best_in_int8() -> None:
    scores = {"a": np.array([1.0, 0.0, 0.0]), "b": np.array([1.0, 1.0, 1.0]), "c": np.array([1.0, 1.0, 0.0])}
    kinds = {"a": "peer", "b": "weights", "c": "penjing"}
    best, pairs = room("rivals").beside_peers(scores, kinds, np.arange(3))
    assert best == "a"
    assert pairs["c"]["closed"]["value"] == pytest.approx(0.5)
    assert pairs["c"]["difference"]["b"]["value"] == pytest.approx(-1 / 3)


def test_the_divergence_of_two_classes_by_hand() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    found = room("rivals").divergence(np.log(p)[None] + 3.0, np.log(q)[None])
    assert found == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1))


def test_signal_to_noise_leaves_out_what_all_samples_share() -> None:
    expected = np.array([[101.0, 7.0], [99.0, 7.0]])
    assert room("rivals").sqnr_db(expected, expected + np.array([[0.1, 0.0], [-0.1, 0.0]])) == pytest.approx(20.0)


def test_the_meter_sees_what_is_held() -> None:
    meter = room("rivals").Meter()
    with meter.running():
        held = np.ones(4_000_000)
        del held
    assert 30e6 < meter.found["peak_bytes"] < 60e6
    assert meter.found["cpu_seconds"] > 0


def test_nearest_and_recall() -> None:
    minilm = room("quantize_minilm")
    angles = np.array([0.0, 0.1, 0.3, 2.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert minilm.nearest(vectors, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert minilm.recall(np.array([[1, 2], [0, 3]]), np.array([[2, 1], [4, 3]])).tolist() == [1.0, 0.5]


def test_streams_are_the_same_for_the_same_seed() -> None:
    silero = room("quantize_silero")
    np.testing.assert_array_equal(silero.voice(1.0, 3), silero.voice(1.0, 3))
    assert not np.array_equal(silero.voice(1.0, 3), silero.voice(1.0, 4))
    assert len(silero.voice(1.0, 3)) == silero.RATE


def test_frames_begin_with_the_end_of_the_one_before() -> None:
    found = room("quantize_silero").frames(np.arange(1.0, 1600.0))
    assert found.shape == (3, 576)
    assert found[0, :64].tolist() == [0.0] * 64
    np.testing.assert_array_equal(found[1, :64], found[0, -64:])
