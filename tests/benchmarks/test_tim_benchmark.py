"""The benchmark of task interaction runs, on its smallest sizes."""

import sys

import pytest
import tim
import tim_power

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
