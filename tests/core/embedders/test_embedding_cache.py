"""Vectors kept from run to run: computed once, never mixed, gone when erased."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m3h_core.embedders import LanguageEmbedder, VisionEmbedder, erase, prune
from m3h_core.embedders import vision as vision_module
from m3h_core.embedders.store import VectorStore, content_key

ITEM = st.integers(0, 60)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(ITEM, max_size=12), max_size=8), st.lists(ITEM, max_size=20), st.booleans()
)
def test_a_store_gives_back_what_was_put(tmp_path_factory, puts, asked, reopened):
    folder = tmp_path_factory.mktemp("stores") / "encoder"
    store = VectorStore(folder)
    for numbers in puts:
        store.put([key_of(i) for i in numbers], np.array([[i, i + 0.5] for i in numbers]))
    store = VectorStore(folder) if reopened else store
    rows, is_found = store.get([key_of(i) for i in asked])
    stored = {i for numbers in puts for i in numbers}
    assert is_found.tolist() == [i in stored for i in asked]
    for i, row in zip(np.array(asked)[is_found], rows[is_found], strict=True):
        assert row.tolist() == [i, i + 0.5]


def key_of(i: int) -> bytes:
    # Every third ends in zero bytes, which numpy does not show.
    return (
        content_key(str(i).encode())[:14] + b"\0\0" if i % 3 == 0 else content_key(str(i).encode())
    )


def test_a_shard_that_was_cut_short_is_computed_again(tmp_path):
    store = VectorStore(tmp_path / "encoder")
    store.put([key_of(1)], np.ones((1, 3)))
    store.put([key_of(2)], np.ones((1, 3)))
    shard = min(tmp_path.glob("encoder/*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-5])
    (tmp_path / "encoder" / ".x.safetensors.1.partial").write_bytes(b"half")
    assert VectorStore(tmp_path / "encoder").find([key_of(1), key_of(2)]).sum() == 1


def test_a_shard_that_vanishes_is_not_found(tmp_path):
    store = VectorStore(tmp_path / "encoder")
    store.put([key_of(1)], np.ones((1, 3)))
    next(tmp_path.glob("encoder/*.safetensors")).unlink()
    rows, is_found = store.get([key_of(1)])
    assert not is_found.any()
    assert not rows.any()


def test_pruning_takes_what_was_not_used_for_longest(tmp_path):
    for age, name in enumerate(("new", "old", "older")):
        store = VectorStore(tmp_path / name)
        store.put([key_of(1)], np.ones((1, 1000)))
        os.utime(next((tmp_path / name).iterdir()), (1e9 - age, 1e9 - age))
    VectorStore(tmp_path / "older").get([key_of(1)])
    size = next((tmp_path / "new").iterdir()).stat().st_size
    assert prune(tmp_path, 3 * size) == 0
    assert prune(tmp_path, 2 * size) == 1
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["new", "older"]


# ---------------------------------------------------------------- embedders with a cache


def notes(*numbers: int) -> list[list[tuple[float, str]]]:
    return [[(-1.0, f"Note {i}: a small effusion, seen {i} days ago.")] for i in numbers]


@pytest.fixture
def language(tiny_bert):
    return lambda cache, **options: language_of(tiny_bert, cache, **options)


def language_of(checkpoint: Path, cache: Path | None, **options) -> LanguageEmbedder:
    embedder = LanguageEmbedder(str(checkpoint), **{"max_tokens": 32, "overlap": 4} | options)
    embedder.cache = cache
    return embedder


def pictures(folder: Path, *numbers: int) -> list[list[tuple[float, str, str]]]:
    folder.mkdir(exist_ok=True)
    items = []
    for i in numbers:
        file = folder / f"{i}.png"
        if not file.exists():
            draw = np.random.default_rng(i)
            stream = io.BytesIO()
            Image.fromarray((255 * draw.random((8, 8))).astype(np.uint8)).resize((80, 80)).save(
                stream, "PNG"
            )
            file.write_bytes(stream.getvalue())
            os.utime(file, (1e9, 1e9))
        items.append([(-1.0, "PA", str(file))])
    return items


def vision(cache: Path | None, **options) -> VisionEmbedder:
    embedder = VisionEmbedder(image_size=64, batch_size=8, **options)
    embedder.cache = cache
    return embedder


@pytest.mark.slow(4)
def test_a_night_embeds_only_what_is_new(tmp_path, language):
    cache = tmp_path / "cache"
    folder = tmp_path / "images"
    for new, items in ((language, notes), (vision, lambda *n: pictures(folder, *n))):
        expected = new(None).fit(items(*range(10))).transform(items(*range(21)))[0]
        first = new(cache).fit(items(*range(10)))
        assert first.computed == 10
        first.transform(items(*range(20)))
        assert first.computed == 10
        night = new(cache).fit(items(*range(10)))
        assert night.computed == 0
        vectors, _ = night.transform(items(*range(21)))
        assert night.computed == 1
        assert vectors.tobytes() == expected.tobytes()


def test_images_are_not_read_again_unless_they_changed(tmp_path, monkeypatch):
    items = pictures(tmp_path / "images", *range(9))
    vision(tmp_path / "cache").fit(items).transform(items)
    read = []
    read_content = vision_module.read_content
    monkeypatch.setattr(
        vision_module, "read_content", lambda source: read.append(source) or read_content(source)
    )
    again = vision(tmp_path / "cache").fit(items)
    again.transform(items)
    assert read == []
    other = Path(items[3][0][2])
    other.write_bytes(Path(items[4][0][2]).read_bytes())
    changed = vision(tmp_path / "cache").fit(items)
    vectors, _ = changed.transform(items)
    assert {Path(file) for file in read} == {other}
    assert changed.computed == 0, "its content is known"
    assert (vectors[3] == vectors[4]).all()


@pytest.mark.parametrize("change", [{"max_tokens": 40}, {"overlap": 8}])
def test_another_encoder_takes_none_of_the_old_vectors(tmp_path, language, change):
    language(tmp_path).fit(notes(1, 2))
    other = language(tmp_path, **change).fit(notes(1, 2))
    assert other.computed == 2


def test_other_weights_take_none_of_the_old_vectors(tmp_path):
    import torch

    from m3h_core import _torchvision_guard  # noqa: F401
    import timm  # isort: skip

    items = pictures(tmp_path / "images", *range(6))
    assert vision(tmp_path / "cache").fit(items).computed == 6
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights = tmp_path / f"{seed}.pth"
        torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), weights)
        other = vision(tmp_path / "cache", model="mobilenetv3_small_050", weights=weights)
        assert other.fit(items).computed == 6


def test_another_fit_reads_no_image_again_and_mixes_nothing(tmp_path):
    """The components change with the training images: the network's part is kept."""
    items = pictures(tmp_path / "images", *range(20))
    vision(tmp_path / "cache").fit(items[:12]).transform(items)
    other = vision(tmp_path / "cache").fit(items[4:])
    vectors, _ = other.transform(items)
    assert other.computed == 0
    assert vectors.tobytes() == vision(None).fit(items[4:]).transform(items)[0].tobytes()


def test_what_is_erased_is_gone_and_the_rest_stays(tmp_path, language):
    cache = tmp_path / "cache"
    items = pictures(tmp_path / "images", *range(6))
    language(cache).fit(notes(1, 2, 3)).transform(notes(1, 2, 3))
    seen = vision(cache).fit(items)
    seen.transform(items)
    text = LanguageEmbedder.content_key(notes(2)[0][0][1])
    image = seen.content_key(items[1][0][2])
    assert text is not None
    assert image is not None
    # What an earlier version fitted on images, beside the vectors that it made.
    fitted = cache / "vision-fitted-0123" / "fitted"
    fitted.mkdir(parents=True)
    (fitted / "adaptation.safetensors").write_bytes(b"words")
    assert erase(cache, [text, image]) == 3, "a vector, an image's features, a file's key"
    for shard in cache.rglob("*.safetensors"):
        assert text not in shard.read_bytes()
        assert image not in shard.read_bytes()
    assert not fitted.parent.exists(), "it was fitted on the image"
    again = language(cache).fit(notes(1, 2, 3))
    assert again.computed == 1
    assert vision(cache).fit(items).computed == 1
    assert erase(cache, [content_key(b"never seen")]) == 0


def test_the_cache_is_its_owners_alone(tmp_path, language):
    language(tmp_path / "cache").fit(notes(1))
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_cache_changes_no_saved_byte(tmp_path):
    items = pictures(tmp_path / "images", *range(8))
    for name, cache in (
        ("without", None),
        ("with", tmp_path / "cache"),
        ("again", tmp_path / "cache"),
    ):
        vision(cache).fit(items).save(tmp_path / name)
    files = sorted(file.name for file in (tmp_path / "with").iterdir())
    for name in files:
        contents = {(tmp_path / run / name).read_bytes() for run in ("without", "with", "again")}
        assert len(contents) == 1, name


KILLED = """
import os, sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_embedding_cache import language_of, notes
from m3h_core.embedders import language as module
module._BLOCK = 4_000
embedder = language_of(Path({checkpoint!r}), Path({cache!r}))
embedder.fit(notes(0))
print("fitted", flush=True)
embedder.transform(notes(*range(150)), lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow(14)
def test_a_killed_process_leaves_whole_shards(tmp_path, language, tiny_bert):
    """kill -9 at any moment: what was kept is not computed again, and the vectors are those of an
    undisturbed run.
    """
    cache = tmp_path / "cache"
    script = KILLED.format(
        here=str(Path(__file__).parent), checkpoint=str(tiny_bert), cache=str(cache)
    )
    for lines in (1, 40):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline()
        process.kill()
        process.communicate()
    kept = len(VectorStore(next(cache.glob("language-*"))))
    assert 0 < kept < 150
    after = language(cache).fit(notes(0))
    assert after.computed == 0
    vectors, _ = after.transform(notes(*range(150)))
    assert after.computed == 150 - kept
    assert (
        vectors.tobytes() == language(None).fit(notes(0)).transform(notes(*range(150)))[0].tobytes()
    )
