"""The benchmark of task interaction runs, on its smallest sizes."""

import sys

import pytest
import tim


@pytest.mark.slow(14)
def test_every_part_prints_its_table(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tim.py", "--quick"])
    tim.main()
    printed = capsys.readouterr().out
    for line in (
        "speed: 256 inputs",
        "estimators: planted",
        "budget: 25%",
        "coverage: 1 cohorts",
        "set: 5%",
    ):
        assert line in printed


def test_reliability_of_noise_is_nothing_and_of_copies_is_all():
    import numpy as np

    rng = np.random.default_rng(0)
    cells = rng.normal(size=(12, 12))
    assert tim.reliability(np.stack([cells] * 4)) > 0.999
    assert tim.reliability(rng.normal(size=(4, 12, 12))) < 0.4
    np.fill_diagonal(cells, np.nan)
    assert tim.overlap(cells, cells) == 1
    assert tim.overlap(cells, -cells) == 0
