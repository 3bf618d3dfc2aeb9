"""Image files as arrays; a damaged or hostile one is refused and does no harm."""

from __future__ import annotations

import importlib.util
import io
import stat
import warnings
from pathlib import Path

import numpy as np

# No radiograph is larger (mammograms: 36 million); what claims to be is damaged, or a decompression
# bomb.
_MOST_PIXELS = 64_000_000
_MOST_BYTES = 512_000_000
# The tag of a TIFF, and its value, that say which end of the scale is white.
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0


class UnreadableImage(Exception):
    """An image that can't be decoded; the text says why, without a word of its content."""


def read_image(source: str | Path | bytes, size: int) -> np.ndarray:
    """An image file as float32 [3, size, size] in 0..1, its aspect kept, black at the sides.

    JPEG, PNG, TIFF and DICOM of 8 or 16 bits, gray or in colour. Brightness is stretched between
    the image's own 0.5th and 99.5th percentile: exposure and bit depth do not count. Raises
    UnreadableImage, and ValueError where pydicom is needed and missing.
    """
    try:
        with warnings.catch_warnings():
            # Decoders warn of oddities, with values out of the file.
            warnings.simplefilter("ignore")
            small = _shrink(source, size)
    except UnreadableImage:
        raise
    except MemoryError:
        raise UnreadableImage("too large for the memory") from None
    except _MissingPackageError as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        # On damaged bytes decoders raise anything, and their messages may quote the file.
        raise UnreadableImage(f"damaged or of an unknown kind ({type(error).__name__})") from None
    low, high = np.percentile(small, (0.5, 99.5))
    small = np.clip((small - low) / (high - low), 0, 1) if high > low else np.zeros_like(small)
    top = (size - small.shape[0]) // 2
    left = (size - small.shape[1]) // 2
    picture = np.zeros((3, size, size), dtype=np.float32)
    picture[:, top : top + small.shape[0], left : left + small.shape[1]] = (
        small if small.ndim == 2 else small.transpose(2, 0, 1)
    )
    return picture


class _MissingPackageError(Exception):
    """A package that a kind of image needs is not installed."""


def read_content(source: str | Path | bytes) -> bytes:
    """The bytes of an image file; raises UnreadableImage."""
    try:
        if not isinstance(source, bytes):
            status = Path(source).stat()
            # A pipe would be waited for, and a device may have no end.
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage("not a regular file")
            if status.st_size > _MOST_BYTES:
                raise UnreadableImage("too large a file")
            source = Path(source).read_bytes()
    except FileNotFoundError:
        raise UnreadableImage("no such file") from None
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"damaged or of an unknown kind ({type(error).__name__})") from None
    if not source:
        raise UnreadableImage("empty file")
    return source


def _shrink(source: str | Path | bytes, size: int) -> np.ndarray:
    """Gray [h, w] or colour [h, w, 3], shrunk so that the longer side is ``size``; float32 of any
    range.
    """
    from PIL import Image

    source = read_content(source)
    if source[128:132] == b"DICM":
        image = Image.fromarray(_read_dicom(source))
    else:
        try:
            image = Image.open(io.BytesIO(source), formats=("JPEG", "PNG", "TIFF"))
        except Image.DecompressionBombError:
            raise UnreadableImage("too many pixels") from None
        _check_pixels(*image.size)
        # A JPEG is decoded at a fraction of its size where that is enough.
        image.draft(None, (size, size))
        image.load()
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode[0] in "IF":
        pixels = np.nan_to_num(np.asarray(image, dtype=np.float32))
        # PIL turns a TIFF whose white is 0 around where it has 8 bits, and leaves one of more.
        is_negative = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        image = Image.fromarray(-pixels if is_negative else pixels)
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    scale = size / max(image.size)
    width, height = (max(round(side * scale), 1) for side in image.size)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)


def _read_dicom(content: bytes) -> np.ndarray:
    """The first frame: uint8 [h, w, 3], or float32 [h, w] with the stored lookup applied and bone
    white.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise _MissingPackageError(
            "a DICOM image was given, and pydicom is not installed: pip install 'm3h[dicom]'"
        )
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    data = pydicom.dcmread(io.BytesIO(content))
    _check_pixels(int(data.Rows), int(data.Columns))
    pixels = pixel_array(data, index=0)
    if pixels.ndim == 3:
        return (
            pixels
            if pixels.dtype == np.uint8
            else (255 * (pixels / max(pixels.max(), 1))).astype(np.uint8)
        )
    pixels = apply_voi_lut(apply_modality_lut(pixels, data), data).astype(np.float32)
    return pixels.max() - pixels if data.PhotometricInterpretation == "MONOCHROME1" else pixels


def _check_pixels(height: int, width: int) -> None:
    if height * width > _MOST_PIXELS:
        raise UnreadableImage("too many pixels")
