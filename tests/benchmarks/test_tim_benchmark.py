"""The benchmark of task interaction runs, on its smallest sizes."""

import re
import sys

import numpy as np
import pytest
import tim
import tim_attention
import tim_power

from m3h_core import FitConfig
from m3h_core.tim.matrix import list_cells


@pytest.mark.slow(14)
def test_every_part_prints_its_table(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tim.py", "--quick"])
    tim.main()
    printed = capsys.readouterr().out
    for line in ("speed: 256 inputs", "200 stays: the teacher is found in", "set: 5%"):
        assert line in printed


def test_a_learner_has_few_labels_and_its_teacher_all():
    cohort, tasks = tim_power.draw_classroom(0, 1000)
    assert [task.name for task in tasks] == list(tim_power.NAMES)
    assert 150 < cohort.labelled["learner"].sum() < 250
    assert cohort.labelled["teacher"].all()
    assert len(list_cells(len(tasks))) == 20


@pytest.mark.slow(10)
def test_what_a_task_reads_is_compared_with_what_it_gains(capsys):
    cohort, tasks = tim.planted(4, 120, 6, test=60)
    config = FitConfig(hidden=(8,), width=4, members=1, epochs=4)
    tim_attention.compare_with_pairs(cohort, tasks, config)
    printed = capsys.readouterr().out
    assert (
        len(re.findall(r"(?:stable|learned): rank correlation with the pairs [+-]0\.\d\d", printed))
        == 2
    )
    assert "30 models" in printed
    for form in tim_attention.FORMS:
        shares = re.search(rf"{form}: a task takes ([\d.]+)% .*at most ([\d.]+)%", printed)
        median, largest = map(float, shares.groups())
        assert 0 < median <= largest < 100


def test_a_pair_s_gain_stands_in_its_row():
    cohort, tasks = tim.planted(3, 120, 6, test=60)
    config = FitConfig(hidden=(8,), width=4, members=1, epochs=4)
    gain_KTT = tim_attention.measure_pairs(cohort, tasks, config)
    assert gain_KTT.shape == (3, 3, 3)
    assert np.all(gain_KTT[:, range(3), range(3)] == 0)
    assert np.all(gain_KTT[:, ~np.eye(3, dtype=bool)] != 0)
