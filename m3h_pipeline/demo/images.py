"""Chest radiographs drawn from simple shapes: a body, two lungs, a heart, ribs, a diaphragm, and
what illness adds.

What a picture shows is kept as numbers (`Findings`), from which the radiology report is written
too, so that picture and report agree as far as a report does.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from m3h_pipeline.demo.stays import Array, Stays

SIZE = 224
# Shapes are drawn on a coarser grid: they are smooth, and it is four times as fast.
_GRID = 88


@dataclass(frozen=True)
class Findings:
    """What the chests of N stays look like; each an array [N], 0 for nothing to see."""

    heart: Array  # size of the heart, 0 for normal
    effusion: Array  # [N, 2] right and left
    oedema: Array
    opacity: Array
    opacity_site: Array  # index into SITES
    inflation: Array
    nodules: Array
    aorta: Array  # how much it is calcified, 0 for normal
    band: Array  # [N, 2] collapse at the bases
    stout: Array
    tube: Array  # bool: in the windpipe
    pacemaker: Array  # bool
    wires: Array  # bool: of an opened breastbone
    port: Array  # bool
    line: Array  # bool


SITES = ("right upper lobe", "right lower lobe", "left upper lobe", "left lower lobe")
_SITE_XY = np.array([[-0.42, -0.35], [-0.45, 0.25], [0.42, -0.35], [0.5, 0.2]], dtype=np.float32)


def draw_findings(rng: np.random.Generator, stays: Stays) -> Findings:
    """What illness does to the chest of each stay."""
    n = len(stays)

    def normal(spread: float) -> Array:
        return spread * rng.standard_normal(n)

    def yes(chance: Array) -> Array:
        return rng.random(n) < chance

    score = stays.score
    driver = stays.driver
    fluid = np.maximum(
        score({"pleural_effusion": 0.8, "congestion": 0.14, "heart_failure": 0.12})
        - 0.15
        + normal(0.12),
        0,
    )
    sides = np.where(rng.random(n) < 0.35, 0.15, rng.uniform(0.6, 1, n))
    opacity = (
        score({"pneumonia": 0.75, "infection": 0.1, "breathing": 0.1, "pulmonary": 0.03})
        - 0.1
        + normal(0.14)
    )
    in_icu = ~np.isnat(stays.icu_in)
    return Findings(
        heart=score(
            {
                "cardiac": 0.3,
                "heart_failure": 0.6,
                "valve_disease": 0.45,
                "hypertension": 0.12,
                "age": 0.12,
                "chronic_kidney_disease": 0.15,
            }
        )
        - 0.2
        + normal(0.35),
        effusion=_one_side_first(rng, fluid, sides),
        oedema=np.maximum(
            score(
                {
                    "congestion": 0.18,
                    "heart_failure": 0.3,
                    "respiratory_failure": 0.25,
                    "acute_kidney_injury": 0.06,
                }
            )
            - 0.1
            + normal(0.15),
            0,
        ),
        opacity=np.maximum(opacity, 0),
        opacity_site=rng.choice(4, n, p=[0.2, 0.35, 0.15, 0.3]),
        inflation=score({"pulmonary": 0.35, "copd": 0.7, "respiratory_failure": -0.2, "age": 0.1})
        + normal(0.4),
        nodules=np.where(
            yes(
                0.03
                + 0.45 * (driver("metastatic_cancer") > 0)
                + 0.05 * np.maximum(driver("cancer"), 0)
            ),
            rng.integers(3, 9, n),
            0,
        ),
        aorta=score(
            {
                "vascular": 0.7,
                "peripheral_artery_disease": 0.5,
                "ischemic_heart_disease": 0.3,
                "age": 0.5,
            }
        )
        + normal(0.5),
        band=np.maximum(
            rng.standard_normal((n, 2))
            - 0.9
            + 0.2 * score({"breathing": 1.0, "pleural_effusion": 1.0})[:, None],
            0,
        ),
        stout=score({"metabolic": 0.4, "obesity": 1.2}) + normal(0.4),
        tube=yes(np.where(in_icu, 0.02 + 0.35 * (driver("respiratory_failure") > 0), 0)),
        pacemaker=yes(
            0.01 + 0.12 * (driver("heart_failure") > 0) + 0.12 * (driver("atrial_fibrillation") > 0)
        ),
        wires=yes(
            0.01
            + 0.25 * (driver("ischemic_heart_disease") > 0)
            + 0.3 * (driver("valve_disease") > 0)
        ),
        port=yes(
            0.005 + 0.2 * (driver("digestive_cancer") > 0) + 0.2 * (driver("metastatic_cancer") > 0)
        ),
        line=yes(np.where(in_icu, np.clip(0.12 + 0.1 * driver("severity"), 0, 0.6), 0.02)),
    )


def _one_side_first(rng: np.random.Generator, fluid: Array, share: Array) -> Array:
    both = np.column_stack([fluid, fluid * share])
    return np.where((rng.random(len(fluid)) < 0.5)[:, None], both, both[:, ::-1])


def draw_images(
    rng: np.random.Generator, findings: Findings, stay: Array, view: list[str]
) -> Array:
    """Pictures [len(stay), SIZE, SIZE] uint8 of these stays in these views (PA, AP or LATERAL)."""
    frontal = np.array([v != "LATERAL" for v in view])
    coarse = np.empty((len(stay), _GRID, _GRID), dtype=np.float32)
    for is_frontal, draw in ((True, _frontal), (False, _lateral)):
        rows = np.flatnonzero(frontal == is_frontal)
        if len(rows):
            coarse[rows] = draw(
                rng, findings, stay[rows], np.array([view[row] == "AP" for row in rows])
            )
    # Exposure differs from picture to picture.
    gain, offset = rng.normal(1, 0.08, (2, len(stay), 1, 1)).astype(np.float32)
    coarse = 0.5 + (coarse - 0.5) * gain + 0.4 * (offset - 1)
    pictures = np.empty((len(stay), SIZE, SIZE), dtype=np.uint8)
    for k, picture in enumerate(coarse):
        fine = np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        grain = rng.standard_normal((SIZE, SIZE), dtype=np.float32)
        pictures[k] = np.clip(255 * fine + 5 * grain, 0, 255)
    return pictures


def encode_jpeg(picture: Array) -> bytes:
    """A grayscale JPEG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _frontal(rng: np.random.Generator, f: Findings, stay: Array, is_ap: Array) -> Array:
    """Frontal views; x grows to the patient's left, y downwards, both from -1 to 1."""
    n = len(stay)

    def per_picture(value: Array) -> Array:
        return np.asarray(value, dtype=np.float32).reshape(n, 1, 1)

    x, y = _grid(rng, n)
    stout = per_picture(f.stout[stay])
    heart = per_picture(f.heart[stay])
    # Lying patients breathe in less deeply, and their heart is nearer to the tube.
    inflation = per_picture(f.inflation[stay] - 0.5 * is_ap)
    floor = 0.52 + 0.07 * inflation
    picture = 0.04 + 0.5 * _ellipse(x, y, 0, 0.2, 0.88 + 0.05 * stout, 1.15, 12)
    lungs = sum(
        _ellipse(x, y, side * 0.43, -0.02, 0.36 + 0.01 * inflation, 0.82 + 0.04 * inflation, 9)
        for side in (-1, 1)
    ) * _step(floor + 0.25 * (np.abs(x) - 0.4) ** 2 - y, 22)
    dark = 0.34 + 0.03 * inflation - 0.05 * stout
    picture -= dark * lungs
    picture += 0.035 * lungs * np.sin(24 * (y + 0.35 * x * x) + per_picture(rng.uniform(0, 6, n)))
    # What fills the lungs, and so takes their darkness away.
    around_the_roots = np.exp(-(((np.abs(x) - 0.25) / 0.28) ** 2) - ((y - 0.05) / 0.42) ** 2)
    filled = per_picture(0.75 * f.oedema[stay]) * around_the_roots
    site = _SITE_XY[f.opacity_site[stay]] + rng.normal(0, 0.06, (n, 2))
    size = rng.uniform(0.2, 0.36, n)
    filled += per_picture(0.85 * np.minimum(f.opacity[stay], 1.2)) * np.exp(
        -((x - per_picture(site[:, 0])) ** 2 + (y - per_picture(site[:, 1])) ** 2)
        / per_picture(size) ** 2
    )
    for k, side in enumerate((-1, 1)):
        fluid = per_picture(f.effusion[stay, k])
        # Fluid stands at the base and rises along the wall.
        level = (
            floor - 0.42 * fluid - 0.5 * np.maximum(side * x - 0.4, 0) * np.minimum(fluid, 1) * 2
        )
        filled += _step(side * x - 0.12, 20) * _step(y - level, 14) * np.minimum(2.2 * fluid, 1)
        place = floor - 0.12 + per_picture(rng.normal(0, 0.04, n))
        band = np.exp(-(((y - place - 0.2 * (side * x - 0.4)) / 0.025) ** 2)) * _step(
            side * x - 0.2, 20
        )
        filled += 0.3 * np.minimum(per_picture(f.band[stay, k]), 1.5) * band
    picture += dark * lungs * np.clip(filled, 0, 0.95)
    picture += _nodules(rng, f.nodules[stay], x, y) * lungs

    picture += 0.17 * np.exp(-((x / 0.14) ** 4)) * _step(y + 0.85, 8)
    arch = np.exp(-(((x - 0.19) / 0.09) ** 2) - ((y + 0.38) / 0.12) ** 2)
    picture += (0.08 + 0.05 * np.clip(per_picture(f.aorta[stay]), -1, 3)) * arch
    width = 0.31 + 0.055 * np.clip(heart, -1.5, 4) + 0.03 * per_picture(is_ap)
    # The heart's axis leans to the left.
    lean = y + 0.35 * x
    picture += (
        0.3 * lungs * _ellipse(x, lean, 0.1 + 0.3 * (width - 0.31), floor - 0.2, width, 0.34, 12)
    )
    return _devices(rng, f, stay, x, y, picture)


def _devices(
    rng: np.random.Generator, f: Findings, stay: Array, x: Array, y: Array, picture: Array
) -> Array:
    n = len(stay)

    def at(flag: Array, shape: Array) -> Array:
        return flag[stay].reshape(n, 1, 1) * shape

    sway = rng.normal(0, 0.015, (n, 1, 1)).astype(np.float32)
    above = _step(-0.35 - y, 40)
    lead = (
        np.exp(-(((x - 0.62 + 0.75 * (y + 0.6)) / 0.02) ** 2))
        * _step(y + 0.6, 40)
        * _step(0.25 - y, 40)
    )
    metal = at(f.tube, np.exp(-(((x - sway) / 0.02) ** 2)) * above)
    metal = metal + at(f.pacemaker, _ellipse(x, y, 0.6, -0.62, 0.13, 0.1, 40) + 0.7 * lead)
    metal = metal + at(
        f.wires, np.exp(-((x / 0.05) ** 2)) * (np.cos(30 * y) > 0.85) * _step(0.35 - np.abs(y), 30)
    )
    metal = metal + at(f.port, _ellipse(x, y, -0.5, -0.5, 0.06, 0.06, 60))
    metal = metal + at(
        f.line, 0.6 * np.exp(-(((x + 0.14 + sway) / 0.015) ** 2)) * _step(0.1 - y, 40)
    )
    return np.maximum(picture, 0.97 * np.minimum(metal, 1))


def _lateral(rng: np.random.Generator, f: Findings, stay: Array, _: Array) -> Array:
    n = len(stay)
    x, y = _grid(rng, n)
    heart = f.heart[stay].reshape(n, 1, 1)
    fluid = f.effusion[stay].max(axis=1).reshape(n, 1, 1)
    inflation = f.inflation[stay].reshape(n, 1, 1)
    picture = 0.05 + 0.5 * _ellipse(x, y, 0, 0.2, 0.75, 1.15, 12)
    lung = _ellipse(x, y, 0.02, -0.05, 0.55 + 0.03 * inflation, 0.75, 9) * _step(
        0.55 + 0.25 * x - y, 20
    )
    picture -= (
        0.28
        * lung
        * (
            1
            - 0.9
            * _step(x - 0.15, 10)
            * _step(y - (0.55 - 0.5 * fluid), 14)
            * np.minimum(2 * fluid, 1)
        )
    )
    picture += 0.2 * np.exp(-(((x - 0.55) / 0.1) ** 2))
    return np.maximum(
        picture, 0.66 * _ellipse(x, y, -0.2, 0.25, 0.25 + 0.05 * np.clip(heart, -1.5, 4), 0.3, 14)
    )


def _grid(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Coordinates [n, _GRID, _GRID] of each pixel; pictures are a little shifted, tilted and
    scaled.
    """
    line = np.linspace(-1, 1, _GRID, dtype=np.float32)
    x = line[None, None, :]
    y = line[None, :, None]
    shift_x, shift_y, tilt = rng.normal(0, 0.035, (3, n, 1, 1)).astype(np.float32)
    scale = rng.normal(1, 0.03, (n, 1, 1)).astype(np.float32)
    return scale * (x + tilt * y) + shift_x, scale * (y - tilt * x) + shift_y


def _nodules(rng: np.random.Generator, count: Array, x: Array, y: Array) -> Array:
    picture = np.zeros(x.shape, dtype=np.float32)
    for row in np.flatnonzero(count):
        for cx, cy in zip(
            rng.uniform(-0.65, 0.65, count[row]), rng.uniform(-0.6, 0.45, count[row]), strict=True
        ):
            picture[row] += 0.22 * np.exp(-((x[row] - cx) ** 2 + (y[row] - cy) ** 2) / 0.05**2)
    return picture


def _ellipse(
    x: Array,
    y: Array,
    cx: Array | float,
    cy: Array | float,
    rx: Array | float,
    ry: Array | float,
    sharp: float,
) -> Array:
    """1 within an ellipse, 0 without, smooth at its edge."""
    return _step(1 - np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2), sharp)


def _step(distance: Array, sharp: float) -> Array:
    return 0.5 + 0.5 * np.tanh(np.float32(sharp / 2) * distance)
