"""Notes: long, empty, equal and new ones, and where a checkpoint comes from."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest
from modality_items import (
    saved_bytes,
    some_notes,
    tiny,
    words,
)

from m3h_core.embedders import (
    LanguageEmbedder,
    load_embedder,
)


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


def test_notes_in_bfloat16_are_those_in_float32(monkeypatch):
    """By the installed encoder, whether this machine multiplies in bfloat16 or emulates it."""
    from m3h_core.embedders import hardware

    texts = ["Chest pain on exertion, no fever.", "Denies smoking. " * 40, words(500)]
    vectors = []
    for name in ("float32", "bfloat16"):
        monkeypatch.setattr(hardware, "precision", lambda name=name: name)
        vectors.append(LanguageEmbedder().encoder.embed(texts))
    assert (vectors[0] != vectors[1]).any()
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.999
