"""Images: of any kind, size and damage, and where weights come from."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
from modality_items import (
    encoded,
    film,
)
from PIL import Image

from m3h_core.embedders import (
    VisionEmbedder,
    hardware,
    load_embedder,
)
from m3h_core.embedders.image_components import ImageComponents
from m3h_core.embedders.image_files import read_image


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


@pytest.mark.slow(5)
def test_vision_is_the_same_each_time_and_for_each_image_alone(vision, images):
    vectors, present = vision.transform(images)
    assert present.all()
    assert vectors.shape == (60, vision.width)
    assert np.isfinite(vectors).all()
    alone, _ = vision.transform(images[5:6])
    assert alone.tobytes() == vectors[5:6].tobytes()
    backwards, _ = vision.transform(images[::-1])
    assert backwards[::-1].tobytes() == vectors.tobytes()
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
    bad = [
        b"",
        b"not an image",
        good[: len(good) // 2],
        jpeg[: len(jpeg) // 2],
        bomb(),
        tmp_path / "none.png",
        tmp_path / "empty.png",
        tmp_path,
        good[:40] + b"\xff" * 40 + good[80:],
    ]
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


def test_a_tiff_whose_white_is_zero_is_turned_around():
    gray = film(0)
    expected = read_image(encoded(gray), 64)
    negative = Image.fromarray(65535 - gray.astype(np.uint16) * 257)
    stream = io.BytesIO()
    negative.save(stream, "TIFF", tiffinfo={262: 0})
    np.testing.assert_allclose(read_image(stream.getvalue(), 64), expected, atol=0.01)
    # Here PIL turns the picture around as it writes and as it reads.
    stream = io.BytesIO()
    Image.fromarray(gray).save(stream, "TIFF", tiffinfo={262: 0})
    np.testing.assert_allclose(read_image(stream.getvalue(), 64), expected, atol=0.01)


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

    def dicom(pixels: np.ndarray, photometric: str, stored: int = 12, **more) -> bytes:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
        meta.MediaStorageSOPInstanceUID = "1.2.3"
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel = 1
        data.PhotometricInterpretation = photometric
        data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
        data.BitsAllocated = 8 * pixels.itemsize
        data.BitsStored = stored
        data.HighBit = stored - 1
        data.PixelData = pixels.tobytes()
        for name, value in more.items():
            setattr(data, name, value)
        stream = io.BytesIO()
        data.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    gray = film(0).astype(np.uint16) * 16
    expected = read_image(encoded(gray), 64)
    signed = gray.astype(np.int16) - 2048
    variants = {
        "12 bits": dicom(gray, "MONOCHROME2"),
        "12 bits, white is low": dicom(4095 - gray, "MONOCHROME1"),
        "16 bits": dicom(gray * 16, "MONOCHROME2", 16),
        "16 bits, white is low": dicom(65535 - gray * 16, "MONOCHROME1", 16),
        "8 bits": dicom(film(0), "MONOCHROME2", 8),
        "8 bits, white is low": dicom(255 - film(0), "MONOCHROME1", 8),
        "signed, rescaled": dicom(
            signed, "MONOCHROME2", 16, RescaleSlope="2", RescaleIntercept="100"
        ),
        "a slope below 0": dicom(
            4095 - gray, "MONOCHROME2", RescaleSlope="-1", RescaleIntercept="4095"
        ),
    }
    for name, content in variants.items():
        np.testing.assert_allclose(
            read_image(content, 64), expected, atol=0.005, err_msg=f"{name} differs"
        )


def test_dicom_without_pydicom_says_what_to_install(vision, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "pydicom" else find(name, *a)
    )
    with pytest.raises(ValueError, match=r"pip install 'm3h\[dicom\]'"):
        vision.transform([[(0.0, "PA", b"\0" * 128 + b"DICM")]])


def test_components_give_an_image_the_same_vector_wherever_it_stands():
    draw = np.random.default_rng(0)
    rows = draw.random((58, 1280 + 256), dtype=np.float32)
    components = ImageComponents.fit(rows)
    order = draw.permutation(58)
    vectors = components.transform(rows)
    assert components.transform(rows[order]).tobytes() == vectors[order].tobytes()
    assert components.transform(rows[7:8]).tobytes() == vectors[7:8].tobytes()


def test_components_are_white_in_what_they_were_fitted_on_and_few_for_few_images():
    draw = np.random.default_rng(0)
    rows = draw.random((960, 300 + 256), dtype=np.float32)
    components = ImageComponents.fit(rows)
    vectors = components.transform(rows)
    assert components.width == 128
    np.testing.assert_allclose(np.cov(vectors[:, :64].T), np.eye(64), atol=0.02)
    assert ImageComponents.fit(rows[:90]).width == 2 * 6
    assert ImageComponents.fit(rows[:2]).width == 2
    assert ImageComponents.fit(rows[:1]).width == 0
    assert abs(components.transform(1e6 * rows)).max() == 8


@pytest.mark.slow(5)
def test_a_vector_says_where_a_spot_lies(monkeypatch):
    """On which side a spot lies: a linear probe on the vectors against one on the network's pooled
    output, which knows what is in an image rather than where. In float32, so that the bounds hold
    for every machine.
    """
    monkeypatch.setattr(hardware, "precision", lambda: "float32")
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
    assert embedder.report["components"] == 26
    vectors, _ = embedder.transform(items)
    assert auroc(vectors) > 0.85
    assert auroc(vectors) > auroc(vectors[:, :13]) + 0.1


def test_vision_takes_weights_from_a_file(images, tmp_path):
    import torch

    from m3h_core import _torchvision_guard  # noqa: F401
    import timm  # isort: skip

    torch.manual_seed(1)
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "weights.pth")
    embedder = VisionEmbedder(
        "mobilenetv3_small_050", weights=tmp_path / "weights.pth", image_size=64
    ).fit(images)
    assert embedder.width == 2 * 6 + 4
    assert embedder.report["weights"] == str(tmp_path / "weights.pth")
    vectors, _ = embedder.transform(images)
    embedder.save(tmp_path / "saved")
    (tmp_path / "weights.pth").unlink()
    assert load_embedder(tmp_path / "saved").transform(images)[0].tobytes() == vectors.tobytes()


def test_vision_names_what_can_not_be_had(tmp_path):
    items = [[(0.0, "PA", encoded(film(0)))]]
    small = "mobilenetv3_small_050"
    with pytest.raises(ValueError, match="timm has no model 'mobilenet_v9'; near: "):
        VisionEmbedder("mobilenet_v9").fit(items)
    with pytest.raises(ValueError, match="no such file"):
        VisionEmbedder(small, weights=tmp_path / "none.pth").fit(items)
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="can't be had"):
        VisionEmbedder(small, weights=tmp_path / "bad.pth").fit(items)
    with pytest.raises(ValueError, match=f"timm model '{small}' needs weights: a file, or 'pre"):
        VisionEmbedder(small).fit(items)
    with pytest.raises(ValueError, match=r"has its weights: leave out 'my\.pth'"):
        VisionEmbedder(weights="my.pth")


def test_vision_takes_a_transformer(images, tmp_path):
    import torch

    from m3h_core import _torchvision_guard  # noqa: F401
    import timm  # isort: skip

    network = timm.create_model("vit_tiny_patch16_224", img_size=64)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    embedder = VisionEmbedder(
        "vit_tiny_patch16_224", weights=tmp_path / "weights.pth", image_size=64
    ).fit(images[:20])
    assert embedder.transform(images[:3])[1].all()


def test_a_vision_embedder_of_an_earlier_version_is_told_to_be_made_anew(vision, tmp_path):
    vision.save(tmp_path)
    file = tmp_path / "embedder.json"
    about = json.loads(file.read_text())
    about["options"]["seed"] = 0
    file.write_text(json.dumps(about))
    with pytest.raises(ValueError, match="of an earlier version, which made other vectors of"):
        VisionEmbedder.load(tmp_path)
