"""The embedders: what they do with data as hospitals have it, and that nothing they learn comes
from other rows.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from modality_items import (
    columns,
    encoded,
    film,
    random_events,
    saved_bytes,
    some_notes,
    tiny,
    words,
)

from m3h_core.embedders import (
    EMBEDDERS,
    EventSequences,
    GivenEmbedder,
    TabularEmbedder,
    TimeseriesEmbedder,
    VisionEmbedder,
    load_embedder,
)
from m3h_core.embedders.base import Scaler, pool_by_recency
from m3h_core.embedders.hardware import precision


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


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({"avx512_f": True, "avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"neon": True, "bf16": True}, "float32"),  # not measured on such a processor
    ],
)
def test_bfloat16_is_used_where_the_processor_multiplies_in_it(monkeypatch, instructions, expected):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert precision() == expected


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


IN_ANOTHER_PROCESS = """
import pickle, sys
import numpy as np
from pathlib import Path
from m3h_core.embedders import load_embedder
folder = Path(sys.argv[1])
items = pickle.loads((folder / "items").read_bytes())
vectors = {name: load_embedder(folder / name).transform(of)[0] for name, of in items.items()}
np.savez(folder / "vectors.npz", **vectors)
"""


@pytest.mark.slow(5)
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
    elsewhere = np.load(tmp_path / "vectors.npz")
    for name, embedder in embedders.items():
        vectors, present = embedder.transform(items[name])
        assert vectors.dtype == np.float32
        assert present.dtype == bool
        assert elsewhere[name].tobytes() == vectors.tobytes(), name


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
    for name, (embedder, raw_values) in fitted.items():
        about, arrays = embedder._state()
        assert "rare" not in json.dumps(about), name
        for array in arrays.values():
            assert not np.isin(np.float32(array), np.float32(raw_values)).any(), name
