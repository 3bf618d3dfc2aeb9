"""The embedders: what they do with data as hospitals have it, and that nothing they learn comes
from other rows.
"""

from __future__ import annotations

import io
import json
import random
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m3h_core.embedders import (
    EMBEDDERS,
    EventSequences,
    GivenEmbedder,
    LanguageEmbedder,
    TabularEmbedder,
    TimeseriesEmbedder,
    VisionEmbedder,
    load_embedder,
)
from m3h_core.embedders import timeseries as timeseries_module
from m3h_core.embedders.base import Scaler, pool_by_recency
from m3h_core.embedders.image_files import read_image
from m3h_core.embedders.timeseries import HAIM_STATISTICS, STATISTICS, statistics


def saved_bytes(embedder, folder: Path) -> dict[str, bytes]:
    embedder.save(folder)
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
    }


# ---------------------------------------------------------------- shared parts


def test_import_loads_no_heavy_package():
    code = (
        "import sys, m3h_core.embedders; print([m for m in ('torch', 'timm', 'transformers', "
        "'sklearn', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torchvision_imports_beside_any_torch():
    from m3h_core import _torchvision_guard

    pytest.importorskip("torchvision", exc_type=ModuleNotFoundError)
    _torchvision_guard.guard()  # a second time does nothing


def test_scaler_limits_outliers_and_drops_what_does_not_vary():
    raw = np.column_stack(
        [np.r_[np.arange(999.0), 1e12], np.full(1000, 7.0), np.full(1000, np.nan)]
    )
    scaler = Scaler.fit(raw)
    assert scaler.keep.tolist() == [0]
    scaled = scaler.transform(raw)
    assert np.abs(scaled).max() < 2
    assert abs(scaled.mean()) < 0.01
    assert Scaler.fit(raw[:, 1:]).transform(raw[:, 1:]).tolist() == [[0.0]] * 1000
    assert Scaler.fit(np.zeros((0, 3))).transform(np.ones((2, 3))).shape == (2, 1)


def test_scaler_percentiles_are_those_of_the_known_values(rng):
    raw = rng.normal(size=(400, 3))
    raw[rng.random(raw.shape) < 0.3] = np.nan
    scaler = Scaler.fit(raw)
    np.testing.assert_allclose(scaler.low, np.nanpercentile(raw, 0.5, axis=0))
    np.testing.assert_allclose(scaler.high, np.nanpercentile(raw, 99.5, axis=0))


def test_old_items_do_not_vanish():
    vectors = np.array([[1.0], [2.0], [4.0]])
    pooled, present = pool_by_recency(
        vectors, np.array([0, 2, 2]), np.array([-1e7, -1e7, -1e7 + 24]), 3, 24.0
    )
    assert pooled[:, 0].tolist() == pytest.approx([1.0, 0.0, 10 / 3])
    assert present.tolist() == [True, False, True]


def test_nothing_works_before_fit(tmp_path):
    for embedder_class in EMBEDDERS.values():
        with pytest.raises(ValueError, match="not fitted"):
            embedder_class().transform([])
        with pytest.raises(ValueError, match="not fitted"):
            embedder_class().save(tmp_path)


def test_load_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="holds no embedder"):
        load_embedder(tmp_path)
    TabularEmbedder().fit({"age": np.arange(9.0)}).save(tmp_path)
    with pytest.raises(ValueError, match="holds a TabularEmbedder, not a VisionEmbedder"):
        VisionEmbedder.load(tmp_path)
    about = json.loads((tmp_path / "embedder.json").read_text())
    (tmp_path / "embedder.json").write_text(json.dumps(about | {"class": "Future"}))
    with pytest.raises(ValueError, match="does not know"):
        load_embedder(tmp_path)
    (tmp_path / "embedder.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        load_embedder(tmp_path)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# ---------------------------------------------------------------- tabular


def columns(**values) -> dict[str, np.ndarray]:
    return {
        k: np.array(v, dtype=object if any(isinstance(x, str) for x in v) else None)
        for k, v in values.items()
    }


def feature(
    embedder: TabularEmbedder | TimeseriesEmbedder, vectors: np.ndarray, name: str
) -> list[float]:
    return vectors[:, embedder.feature_names.index(name)].tolist()


def test_tabular_quantiles_follow_order_and_share_ties(rng):
    age = np.r_[np.zeros(50), rng.lognormal(size=450)]
    embedder = TabularEmbedder().fit({"age": age})
    vectors, present = embedder.transform({"age": np.array([0.0, 0.0, 0.5, 1e9, -1e9])})
    quantile = feature(embedder, vectors, "age: quantile")
    assert quantile[0] == quantile[1] < quantile[2] < quantile[3]
    assert quantile[4] <= quantile[0]
    assert present.all()
    assert np.abs(vectors).max() < 10


def test_tabular_missing_is_information_and_unseen_categories_survive():
    items = columns(
        age=[30.0, 40.0, np.nan, 50.0, np.nan, 60.0],
        sex=["F", "M", None, "F", "M", ""],
        race=["a", "a", "a", "a", "b", "c"],
    )
    embedder = TabularEmbedder(min_rows=2).fit(items)
    new = {
        "age": np.array([np.nan, 45.0], dtype=float),
        "sex": np.array([None, "X"], dtype=object),
        "race": np.array([float("nan"), "z"], dtype=object),
    }
    vectors, present = embedder.transform(new)
    assert present.tolist() == [False, True]
    assert not vectors[0].any()
    assert feature(embedder, vectors, "race: (other)") == [0, 1]
    fitted, _ = embedder.transform(items)
    assert feature(embedder, fitted, "age: missing") == [0, 0, 1, 0, 1, 0]
    assert feature(embedder, fitted, "sex: (missing)") == [0, 0, 1, 0, 0, 1]
    assert feature(embedder, fitted, "race: a") == [1, 1, 1, 1, 0, 0]


def test_tabular_is_safe_on_poor_columns():
    items = {
        "constant": np.full(8, 3.0),
        "nothing": np.full(8, np.nan),
        "empty": np.full(8, None, dtype=object),
        "same": np.array(["x"] * 8, dtype=object),
        "flag": np.array([True, False] * 4),
        "number": np.array([1, None, 3, 4, 5, 6, 7, 8], dtype=object),
        "infinite": np.r_[np.inf, np.arange(7.0)],
    }
    embedder = TabularEmbedder().fit(items)
    vectors, present = embedder.transform(items)
    assert np.isfinite(vectors).all()
    assert present.all()
    assert {name.split(":")[0] for name in embedder.feature_names} == {"flag", "number", "infinite"}
    # Scoring may lack a column's values altogether.
    absent = items | {"number": np.full(8, None, dtype=object)}
    assert np.isfinite(embedder.transform(absent)[0]).all()


@pytest.mark.parametrize(
    "items", [{}, {"age": np.array([50.0])}, {"age": np.zeros(0)}], ids=["none", "one row", "empty"]
)
def test_tabular_fits_next_to_nothing(items, tmp_path):
    embedder = TabularEmbedder().fit(items)
    embedder.save(tmp_path)
    vectors, _ = load_embedder(tmp_path).transform(items)
    assert vectors.shape == (len(next(iter(items.values()), [])), embedder.width)


def test_tabular_errors_name_the_column_and_never_the_value():
    embedder = TabularEmbedder().fit({"age": np.arange(9.0)})
    with pytest.raises(ValueError, match="'age'") as caught:
        embedder.transform({"age": np.array(["Jane Doe"], dtype=object)})
    assert "Jane" not in str(caught.value)
    with pytest.raises(ValueError, match="missing: age"):
        embedder.transform({"sex": np.array(["F"])})


# ---------------------------------------------------------------- time series


def random_events(rng, n=40, codes=("a", "b", "c"), size=900) -> EventSequences:
    return EventSequences(
        sample=rng.integers(0, n, size),
        code=rng.choice(np.array(codes, dtype=object), size),
        hours=-np.round(rng.random(size) * 24, 2),
        # Few distinct values: plateaus and ties happen.
        value=rng.integers(0, 5, size).astype(float),
        n=n,
    )


def naive_statistics(hours: np.ndarray, value: np.ndarray) -> list[float]:
    from scipy.signal import find_peaks

    order = np.lexsort((value, hours))
    hours = hours[order]
    value = value[order]
    step = np.diff(value)
    several = len(value) > 1
    return [
        value.max(), value.min(), value.mean(),
        value.var() if several else np.nan,
        step.mean() if several else np.nan,
        np.abs(step).mean() if several else np.nan,
        np.abs(step).max() if several else np.nan,
        np.abs(step).sum(),
        value[-1] - value[0] if several else np.nan,
        len(find_peaks(value)[0]),
        np.polyfit(hours, value, 1)[0] if len(set(hours)) > 1 else np.nan,
        value[-1], np.log1p(len(value)),
    ]  # fmt: skip


def test_statistics_agree_with_a_plain_loop(rng):
    events = random_events(rng)
    codes = ["a", "b", "c", "never"]
    found = statistics(events, codes)
    assert found.shape == (40, 4, len(STATISTICS))
    assert len(HAIM_STATISTICS) == 11
    for i in range(events.n):
        for j, code in enumerate(codes):
            mine = (events.sample == i) & (events.code == code)
            if mine.any():
                np.testing.assert_allclose(
                    found[i, j], naive_statistics(events.hours[mine], events.value[mine]), atol=1e-9
                )
            else:
                assert np.isnan(found[i, j]).all()


def test_statistics_have_none_of_haims_defects():
    events = EventSequences(
        [0, 0, 0, 1], ["hr"] * 4, [-3.0, -2.0, -1.0, -5.0], [80.0, 90.0, 100.0, 70.0], n=2
    )
    of = [
        dict(zip(STATISTICS, row, strict=True)) for row in statistics(events, ["hr"])[:, 0].tolist()
    ]
    assert of[0]["min"] == 80, "a row of zeros was appended"
    assert of[0]["trend per hour"] == pytest.approx(10)
    assert of[1]["min"] == of[1]["max"] == of[1]["last"] == 70
    assert np.isnan([of[1]["variance"], of[1]["mean difference"], of[1]["trend per hour"]]).all()
    assert of[1]["number of peaks"] == of[1]["sum of absolute differences"] == 0


def test_order_of_events_and_form_of_codes_do_not_matter(rng):
    events = random_events(rng)
    order = rng.permutation(len(events.sample))
    shuffled = EventSequences(
        events.sample[order], events.code[order], events.hours[order], events.value[order], events.n
    )
    names = ["c", "a", "b"]
    numbered = EventSequences(
        events.sample,
        [names.index(c) for c in events.code],
        events.hours,
        events.value,
        events.n,
        codes=names,
    )
    embedder = TimeseriesEmbedder().fit(events)
    expected = embedder.transform(events)[0].tobytes()
    assert embedder.transform(shuffled)[0].tobytes() == expected
    assert embedder.transform(numbered)[0].tobytes() == expected
    assert TimeseriesEmbedder().fit(numbered).codes == ["a", "b", "c"]


def test_timeseries_marks_what_was_not_observed(rng):
    events = random_events(rng, size=60)
    embedder = TimeseriesEmbedder(codes=["a", "b", "never"]).fit(events.take(np.arange(30)))
    assert embedder.codes == ["a", "b"]
    some = EventSequences(
        [0, 2, 3, 3], ["a", "c", "never", "a"], [-1.0] * 4, [2.0, 1.0, 5.0, np.nan], n=4
    )
    vectors, present = embedder.transform(some)
    assert present.tolist() == [True, False, False, False]
    assert feature(embedder, vectors, "b: missing") == [1, 0, 0, 0]
    assert not vectors[1:].any()
    assert np.isfinite(vectors).all()
    assert vectors.shape == (4, embedder.width)


def test_timeseries_without_events(tmp_path):
    none = EventSequences([], np.array([], dtype=object), [], [], n=3)
    embedder = TimeseriesEmbedder().fit(none)
    embedder.save(tmp_path)
    vectors, present = load_embedder(tmp_path).transform(
        EventSequences([0], ["a"], [-1.0], [1.0], n=1)
    )
    assert vectors.tolist() == [[0.0]]
    assert not present.any()


def test_timeseries_blocks_make_no_difference(rng, monkeypatch):
    events = random_events(rng)
    whole = TimeseriesEmbedder().fit(events).transform(events)[0].tobytes()
    monkeypatch.setattr(timeseries_module, "_BLOCK", 7)
    steps = []
    vectors, _ = (
        TimeseriesEmbedder()
        .fit(events)
        .transform(events, lambda done, total: steps.append((done, total)))
    )
    assert vectors.tobytes() == whole
    assert steps[-1] == (40, 40)


def test_take_numbers_samples_anew(rng):
    events = random_events(rng)
    some = events.take(np.array([5, 2]))
    assert some.n == 2
    assert sorted(some.value[some.sample == 0]) == sorted(events.value[events.sample == 5])
    with pytest.raises(ValueError, match="distinct"):
        events.take(np.array([1, 1]))


def test_the_future_is_refused():
    with pytest.raises(ValueError, match="leak"):
        EventSequences([0], ["a"], [0.5], [1.0], n=1)
    with pytest.raises(ValueError, match="leak"):
        LanguageEmbedder().fit([[(1.0, "tomorrow")]])
    with pytest.raises(ValueError, match="leak"):
        VisionEmbedder().fit([[(float("nan"), "PA", b"")]])
    with pytest.raises(ValueError, match=r"0\.\.0"):
        EventSequences([1], ["a"], [-0.5], [1.0], n=1)


# ---------------------------------------------------------------- language

# As tiny_bert knows them (tests/conftest.py).
WORDS = [a + b for a in "bcdfghklm" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]


def words(n: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def tiny(folder: Path, **options) -> LanguageEmbedder:
    return LanguageEmbedder(str(folder), max_tokens=32, overlap=8, **options)


def some_notes(n: int = 30) -> list[list[tuple[float, str]]]:
    return [
        [(-float(k), words(5 + 7 * ((i + k) % 9), seed=i + 40 * k)) for k in range(i % 3)]
        for i in range(n)
    ]


def test_language_drops_nothing_of_a_long_note(tiny_bert):
    embedder = tiny(tiny_bert)
    start = words(400)
    texts = [start, start + " zzz", words(1, seed=9) + start[2:]]
    vectors = embedder.encoder.embed(texts)
    assert len({v.tobytes() for v in vectors}) == 3
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    tokenizer, _ = embedder.encoder.load()
    chunks = []
    forward = embedder.encoder.forward
    embedder.encoder.forward = lambda ids, tell: chunks.extend(ids) or forward(ids, tell)
    embedder.encoder.embed([start])
    ids = tokenizer(start, truncation=False, add_special_tokens=False)["input_ids"]
    rebuilt = chunks[0].tolist()[1:-1]
    for chunk in chunks[1:]:
        assert rebuilt[-8:] == chunk.tolist()[1:9], "chunks overlap by 8 tokens"
        rebuilt += chunk.tolist()[9:-1]
    assert rebuilt == ids


def test_language_vector_depends_on_the_note_alone(tiny_bert):
    notes = some_notes()
    embedder = tiny(tiny_bert).fit(notes[:20])
    vectors, present = embedder.transform(notes)
    assert present.tolist() == [bool(row) for row in notes]
    assert vectors.shape == (30, 32)
    assert not vectors[~present].any()
    for batch_tokens in (32, 100, 10_000):
        embedder.encoder.batch_tokens = batch_tokens
        np.testing.assert_allclose(embedder.transform(notes[7:])[0], vectors[7:], atol=1e-4)


def test_language_embeds_equal_texts_once(tiny_bert):
    embedder = tiny(tiny_bert)
    asked = []
    tokenize = embedder.encoder.tokenize
    embedder.encoder.tokenize = lambda texts: asked.append(texts) or tokenize(texts)
    embedder.fit([[(-1.0, "ba"), (-2.0, "be")], [(-1.0, " ba ")]])
    vectors, _ = embedder.transform(
        [[(-1.0, "ba")], [(-9.0, "ba")], [(-1.0, "bi"), (-2.0, "bi")], []]
    )
    assert asked == [["ba", "be"], ["bi"]]
    assert (vectors[0] == vectors[1]).all()


def test_language_lets_new_notes_weigh_more(tiny_bert):
    new = "ba be bi"
    old = "go ku la mo"
    embedder = tiny(tiny_bert, half_life_hours=6.0)
    alone = embedder.encoder.embed([new, old])
    ((_, pooled, _),) = embedder._pooled([[(-2.0, new), (-8.0, old)]], [0], None)
    np.testing.assert_allclose(pooled[0], (2 * alone[0] + alone[1]) / 3, rtol=1e-4, atol=1e-6)


def test_language_takes_any_text(tiny_bert):
    odd = [
        "",
        "   \n",
        None,
        "\x00\x01",
        "\ud800",
        "心不全",
        "قلب",
        "ba\x00be",
        "b" * 5000,
        words(120_000),
        "🫀 ba",
    ]
    embedder = tiny(tiny_bert).fit(some_notes())
    vectors, present = embedder.transform([[(-1.0, text)] for text in odd])
    # No word: empty, blank, missing, and control characters alone.
    assert present.tolist() == [False] * 4 + [True] * 7
    assert np.isfinite(vectors).all()
    both, _ = embedder.transform([[(-1.0, "ba"), (-1.0, "\x00")], [(-1.0, "ba")]])
    assert (both[0] == both[1]).all()


def test_language_reads_a_folder_without_network(tiny_bert, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    assert tiny(tiny_bert).fit(some_notes()).width == 32


def test_language_names_what_can_not_be_had(tiny_bert, tmp_path, monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    notes = [[(-1.0, "ba")]]
    with pytest.raises(ValueError, match=r"give its folder, or use the offline 'minilm'"):
        LanguageEmbedder("owner/model").fit(notes)
    for bad in (str(tmp_path / "none"), "./none", "none"):
        with pytest.raises(ValueError, match="neither a folder nor a hub name"):
            LanguageEmbedder(bad).fit(notes)
    with pytest.raises(ValueError, match="no usable transformers checkpoint"):
        LanguageEmbedder(str(tmp_path)).fit(notes)
    with pytest.raises(ValueError, match="max_tokens = 256 is more than the 64"):
        LanguageEmbedder(str(tiny_bert)).fit(notes)
    with pytest.raises(ValueError, match="overlap"):
        LanguageEmbedder(max_tokens=32, overlap=16)


def test_language_travels_with_its_weights_or_checks_them(tiny_bert, tmp_path):
    import shutil

    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_bert, checkpoint)
    notes = some_notes()
    bundled = tiny(checkpoint).fit(notes)
    expected = bundled.transform(notes)[0].tobytes()
    bundled.save(tmp_path / "bundled")
    tiny(checkpoint, bundle_weights=False).fit(notes).save(tmp_path / "named")
    assert not (tmp_path / "named" / "checkpoint").exists()
    assert load_embedder(tmp_path / "named").transform(notes)[0].tobytes() == expected

    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    with pytest.raises(ValueError, match="hash differs"):
        load_embedder(tmp_path / "named")
    shutil.rmtree(checkpoint)
    with pytest.raises(ValueError, match="neither a folder"):
        load_embedder(tmp_path / "named")
    again = load_embedder(tmp_path / "bundled")
    assert again.transform(notes)[0].tobytes() == expected
    again.save(tmp_path / "copy")
    assert load_embedder(tmp_path / "copy").transform(notes)[0].tobytes() == expected


def test_minilm_knows_what_is_alike(tmp_path):
    texts = [
        "Large left pleural effusion.",
        "There is fluid in the left pleural space.",
        "Fracture of the right hip.",
    ]
    embedder = LanguageEmbedder().fit([[(-1.0, text)] for text in texts])
    assert embedder.width == 384
    a, b, c = embedder.encoder.embed(texts)
    assert a @ b > 0.5 > a @ c
    saved = saved_bytes(embedder, tmp_path)
    assert sum(map(len, saved.values())) < 100_000, "the installed checkpoint is named, not copied"


# ---------------------------------------------------------------- vision


def film(seed: int, size: int = 96, blob: bool = False, side: int = 0) -> np.ndarray:
    """A gray picture uint8: a body, here and there, narrow or wide, with a faint spot in it or
    none.
    """
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size + draw.normal(0, 0.05, (2, 1, 1))
    wide = draw.uniform(0.3, 0.45)
    grain = 0.02 * draw.normal(size=(size, size))
    picture = 0.5 * np.exp(-(((x - 0.5) / wide) ** 4) - ((y - 0.5) / 0.45) ** 4) + grain
    if blob:
        cx, cy = draw.uniform(0.35, 0.65, 2) + np.array([0.12 * side, 0])
        picture += 0.15 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.06**2)
    return (255 * np.clip(picture + 0.1, 0, 1)).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind)
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 2.5 thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 999))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def images() -> list[list[tuple[float, str, bytes]]]:
    views = ["PA", "AP", "lateral", "LL", "odd", ""]
    return [
        [
            (-float(k), views[i % 6], encoded(film(i + 100 * k, blob=i % 2 == 0)))
            for k in range(1 + i % 2)
        ]
        for i in range(60)
    ]


@pytest.fixture(scope="module")
def vision(images) -> VisionEmbedder:
    return VisionEmbedder(image_size=64, batch_size=16).fit(images)


def test_vision_is_the_same_each_time_and_for_each_image_alone(vision, images):
    vectors, present = vision.transform(images)
    assert present.all()
    assert vectors.shape == (60, vision.width)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(vision.transform(images[5:6])[0], vectors[5:6], atol=1e-4)
    again = VisionEmbedder(image_size=64, batch_size=16).fit(images)
    assert again.transform(images)[0].tobytes() == vectors.tobytes()


def test_vision_leaves_the_callers_random_numbers_alone(images):
    import torch

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    VisionEmbedder(image_size=64).fit(images[:4])
    assert torch.rand(1) == expected


def test_vision_keeps_the_view_and_lets_new_images_weigh_more(vision, images):
    new = images[0][0][2]
    old = images[2][0][2]
    items = [
        [(0.0, "PA", new)],
        [(0.0, "ll ", old)],
        [(0.0, "PA", new), (-24.0, "LL", old)],
        [(0.0, None, new)],
    ]
    vectors, _ = vision.transform(items)
    np.testing.assert_allclose(vectors[2], (2 * vectors[0] + vectors[1]) / 3, atol=1e-5)
    np.testing.assert_allclose(
        vectors[:, -4:], [[1, 0, 0, 0], [0, 0, 1, 0], [2 / 3, 0, 1 / 3, 0], [0, 0, 0, 1]], atol=1e-6
    )


def test_vision_goes_on_past_what_it_can_not_read(vision, images, tmp_path):
    good = images[0][0][2]
    jpeg = encoded(film(1), "JPEG")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "good.png").write_bytes(good)
    bad = [b"", b"not an image", good[: len(good) // 2], jpeg[: len(jpeg) // 2], bomb(), tmp_path / "none.png",
           tmp_path / "empty.png", tmp_path, good[:40] + b"\xff" * 40 + good[80:]]  # fmt: skip
    items = [[(-1.0, "PA", source)] for source in bad]
    items += [[(-1.0, "PA", good), (0.0, "PA", b"")], [(-1.0, "PA", tmp_path / "good.png")], []]
    vectors, present = vision.transform(items)
    assert present.tolist() == [False] * len(bad) + [True, True, False]
    assert (vectors[-3] == vectors[-2]).all()
    assert not vectors[~present].any()
    assert [one.sample for one in vision.unreadable] == list(range(len(bad) + 1))
    assert [one.item for one in vision.unreadable] == [0] * len(bad) + [1]
    reasons = [one.reason for one in vision.unreadable]
    assert reasons[0] == reasons[6] == "empty file"
    assert reasons[4] == "too many pixels"
    assert reasons[5] == "no such file"
    assert reasons[7] == "not a regular file"
    assert all("damaged" in reasons[i] for i in (1, 2, 3, 8))
    assert str(tmp_path) not in "".join(reasons)


def test_vision_fits_and_saves_without_a_readable_image(tmp_path, images):
    embedder = VisionEmbedder(image_size=64).fit([[(0.0, "PA", b"")], []])
    assert embedder.report["unreadable"] == {"empty file": 1}
    embedder.save(tmp_path)
    vectors, present = load_embedder(tmp_path).transform(images[:2])
    assert vectors.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert present.all()
    same = [[(0.0, "PA", encoded(np.full((64, 64), 9, np.uint8)))]] * 3
    blank = VisionEmbedder(image_size=64).fit(same)
    blank.save(tmp_path)
    assert np.isfinite(load_embedder(tmp_path).transform(same)[0]).all()


def test_bit_depth_colour_and_container_make_little_difference():
    gray = film(0)
    expected = read_image(encoded(gray), 64)
    assert expected.shape == (3, 64, 64)
    assert expected.dtype == np.float32
    assert 0 <= expected.min() < expected.max() <= 1
    image = Image.fromarray(gray)
    variants = {
        "16 bits": encoded(Image.fromarray(gray.astype(np.uint16) * 257)),
        "12 of 16 bits": encoded(Image.fromarray(gray.astype(np.uint16) * 16)),
        "tiff": encoded(Image.fromarray(gray.astype(np.float32)), "TIFF"),
        "rgb": encoded(image.convert("RGB")),
        "rgba": encoded(image.convert("RGBA")),
        "gray with alpha": encoded(image.convert("LA")),
        "palette": encoded(image.convert("P")),
        "jpeg": encoded(image, "JPEG"),
        "cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "dark": encoded(gray // 2),
    }
    for name, content in variants.items():
        assert np.abs(read_image(content, 64) - expected).mean() < 0.03, name
    assert read_image(encoded(image.convert("1")), 32).any()


def test_aspect_is_kept_and_large_jpegs_are_read():
    wide = read_image(encoded(np.tile(film(0), (1, 3))), 96)
    assert not wide[:, :30].any()
    assert wide[:, 48].any()
    large = encoded(Image.fromarray(film(0)).resize((2000, 2400)), "JPEG")
    assert read_image(large, 64).any()
    assert read_image(encoded(np.full((1, 3000), 200, np.uint8)), 64).shape == (3, 64, 64)
    assert not read_image(encoded(np.full((50, 50), 200, np.uint8)), 64).any()


def test_dicom_equals_the_same_picture_as_png():
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    def dicom(pixels: np.ndarray, photometric: str) -> bytes:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
        meta.MediaStorageSOPInstanceUID = "1.2.3"
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel = 1
        data.PhotometricInterpretation = photometric
        data.PixelRepresentation = 0
        data.BitsAllocated = 16
        data.BitsStored = 12
        data.HighBit = 11
        data.PixelData = pixels.astype("<u2").tobytes()
        stream = io.BytesIO()
        data.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    gray = film(0).astype(np.uint16) * 16
    expected = read_image(encoded(gray), 64)
    np.testing.assert_allclose(read_image(dicom(gray, "MONOCHROME2"), 64), expected, atol=1e-5)
    np.testing.assert_allclose(
        read_image(dicom(4095 - gray, "MONOCHROME1"), 64), expected, atol=1e-5
    )


def test_dicom_without_pydicom_says_what_to_install(vision, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "pydicom" else find(name, *a)
    )
    with pytest.raises(ValueError, match=r"pip install 'm3h\[dicom\]'"):
        vision.transform([[(0.0, "PA", b"\0" * 128 + b"DICM")]])


def test_adaptation_sees_more_than_a_random_network():
    """On which side a spot lies: a linear probe on the adapted vectors against one on the network's
    pooled output.
    """
    import torch

    target = np.arange(300) % 2 == 0
    pictures = [
        encoded(film(seed, blob=True, side=1 if right else -1)) for seed, right in enumerate(target)
    ]
    items = [[(0.0, "PA", picture)] for picture in pictures]
    train = np.arange(200)
    test = np.arange(200, 300)

    def auroc(x: np.ndarray) -> float:
        x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-6)
        weights = np.linalg.solve(
            x[train].T @ x[train] + 100 * np.eye(x.shape[1]), x[train].T @ (target[train] - 0.5)
        )
        score = x[test] @ weights
        return float((score[target[test]][:, None] > score[~target[test]][None]).mean())

    embedder = VisionEmbedder(image_size=64).fit(items[:200])
    assert 0 < embedder.report["components"] < 200
    adapted = auroc(embedder.transform(items)[0])
    with torch.inference_mode():
        batch = torch.from_numpy(np.stack([read_image(picture, 64) for picture in pictures]))
        pooled = auroc(embedder.encoder.load()((batch - 0.5) / 0.5).numpy())
    assert adapted > 0.85
    assert adapted > pooled + 0.05


def test_vision_takes_weights_from_a_file(images, tmp_path):
    import torch

    from m3h_core import _torchvision_guard  # noqa: F401
    import timm  # isort: skip

    torch.manual_seed(1)
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "weights.pth")
    embedder = VisionEmbedder(
        "mobilenetv3_small_050", weights=tmp_path / "weights.pth", image_size=64
    ).fit(images)
    assert embedder.width == 1024 + 4
    vectors, _ = embedder.transform(images)
    embedder.save(tmp_path / "saved")
    (tmp_path / "weights.pth").unlink()
    assert load_embedder(tmp_path / "saved").transform(images)[0].tobytes() == vectors.tobytes()


def test_vision_names_what_can_not_be_had(tmp_path):
    items = [[(0.0, "PA", encoded(film(0)))]]
    with pytest.raises(ValueError, match="timm has no model 'mobilenet_v9'; near: "):
        VisionEmbedder("mobilenet_v9").fit(items)
    with pytest.raises(ValueError, match="no such file"):
        VisionEmbedder(weights=tmp_path / "none.pth").fit(items)
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="can't be had"):
        VisionEmbedder(weights=tmp_path / "bad.pth").fit(items)


def test_vision_takes_a_transformer(images):
    embedder = VisionEmbedder("vit_tiny_patch16_224", image_size=64).fit(images[:20])
    assert embedder.transform(images[:3])[1].all()


# ---------------------------------------------------------------- all four

IN_ANOTHER_PROCESS = """
import pickle, sys
import numpy as np
from pathlib import Path
from m3h_core.embedders import load_embedder
folder = Path(sys.argv[1])
items = pickle.loads((folder / "items").read_bytes())
np.savez(folder / "found.npz", **{name: load_embedder(folder / name).transform(of)[0] for name, of in items.items()})
"""


def test_saved_embedders_give_the_same_vectors_in_another_process(
    tiny_bert, vision, images, rng, tmp_path
):
    import pickle

    events = random_events(rng)
    tabular = columns(age=[30.0, np.nan, 50.0, 60.0], sex=["F", "M", None, "F"])
    items = {"tabular": tabular, "timeseries": events, "language": some_notes(), "vision": images}
    embedders = {
        "tabular": TabularEmbedder(min_rows=1).fit(tabular),
        "timeseries": TimeseriesEmbedder().fit(events.take(np.arange(30))),
        "language": tiny(tiny_bert).fit(some_notes()[:20]),
        "vision": vision,
    }
    for name, embedder in embedders.items():
        embedder.save(tmp_path / name)
        assert load_embedder(tmp_path / name).width == embedder.width
    (tmp_path / "items").write_bytes(pickle.dumps(items))
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path)], check=True)
    found = np.load(tmp_path / "found.npz")
    for name, embedder in embedders.items():
        vectors, present = embedder.transform(items[name])
        assert vectors.dtype == np.float32
        assert present.dtype == bool
        assert found[name].tobytes() == vectors.tobytes(), name


def test_rows_not_fitted_on_change_nothing(tiny_bert, images, rng, tmp_path):
    """What fit gets is all that is learned from: transforming other rows leaves the saved bytes as
    they are.
    """
    events = random_events(rng)
    notes = some_notes()
    strange = {
        "tabular": columns(age=[1e9, -1e9], sex=["X", "Y"]),
        "timeseries": EventSequences([0], ["zzz"], [-1.0], [1e9], n=1),
        "language": [[(-1.0, words(300, seed=99))]],
        "vision": [[(0.0, "odd", encoded(film(999)[::-1]))], [(0.0, "", b"")]],
    }
    fitted = {
        "tabular": TabularEmbedder().fit(columns(age=[30.0, 40.0, 50.0], sex=["F", "M", "F"])),
        "timeseries": TimeseriesEmbedder().fit(events),
        "language": tiny(tiny_bert).fit(notes),
        "vision": VisionEmbedder(image_size=64).fit(images[:20]),
    }
    for name, embedder in fitted.items():
        before = saved_bytes(embedder, tmp_path / "before" / name)
        embedder.transform(strange[name])
        assert saved_bytes(embedder, tmp_path / "after" / name) == before, name


# ---------------------------------------------------------------- what a registry may hold


def test_what_is_fitted_holds_no_value_of_a_few_patients():
    """Numbers that differ from patient to patient, a category of four, a signal of one patient:
    none is kept.
    """
    draw = np.random.default_rng(0)
    numbers = draw.normal(60, 9, 201)
    values = draw.normal(80, 12, 202)
    sex = np.array(["F"] * 197 + ["rare"] * 4, dtype=object)
    events = EventSequences(
        np.append(np.arange(201), 7),
        np.array(["hr"] * 201 + ["rare"], dtype=object),
        -np.ones(202),
        values,
        n=201,
    )
    vectors = [None if i % 3 else draw.normal(size=4) for i in range(201)]
    fitted = {
        "tabular": (TabularEmbedder(min_rows=10).fit({"age": numbers, "sex": sex}), numbers),
        "timeseries": (TimeseriesEmbedder(min_rows=10).fit(events), values),
        "given": (
            GivenEmbedder("vision", min_rows=10).fit(vectors),
            np.ravel([v for v in vectors if v is not None]),
        ),
    }
    for name, (embedder, known) in fitted.items():
        about, arrays = embedder._state()
        assert "rare" not in json.dumps(about), name
        for array in arrays.values():
            assert not np.isin(np.float32(array), np.float32(known)).any(), name
