"""Review where several act at once, MLflow is down, or somebody moves an alias by hand."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from review_store import (
    NAME,
    get_aliases,
    get_client,
    make_verdict,
    on_both_databases,
    read_decisions,
)

from m3h_pipeline import config
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import review
from m3h_pipeline.registry.audit import Audit
from m3h_pipeline.registry.promotion import apply_decisions
from m3h_pipeline.registry.review import decide, roll_back
from m3h_pipeline.registry.tags import APPROVED, BY, REJECTED, STATUS
from m3h_pipeline.registry.verdicts import record_verdict

pytestmark = pytest.mark.slow(60)


def decide_together(monkeypatch, *decisions: tuple[Path, str, str]) -> list[str]:
    """What each of (out-folder, decision, name) is told who began before any other has decided."""
    answers: list[str] = []
    start = threading.Barrier(len(decisions))
    real = review.open_client

    def connect(folder: Path) -> MlflowClient:
        start.wait(60)
        return real(folder)

    def reviewer(folder: Path, decision: str, name: str) -> None:
        try:
            answers.append(decide(folder, decision, "1", name, f"{name} says so"))
        except InputError as error:
            answers.append(str(error))

    with monkeypatch.context() as patch:
        patch.setattr(review, "open_client", connect)
        threads = [threading.Thread(target=reviewer, args=one) for one in decisions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return answers


@on_both_databases
def test_two_reviewers_of_one_version_at_once_the_second_is_decisions(out, monkeypatch):
    answers = decide_together(monkeypatch, (out, APPROVED, "Ada"), (out, REJECTED, "Ben"))
    lines = read_decisions(out)
    assert len(lines) == 1
    assert sum(f"by {lines[0][2]} at" in answer for answer in answers) == 1
    assert get_aliases(out) == ({"champion": "1"} if lines[0][1] == APPROVED else {})


@on_both_databases
def test_two_reviewers_who_agree_leave_one_line(out, monkeypatch):
    answers = decide_together(monkeypatch, (out, APPROVED, "Ada"), (out, APPROVED, "Ben"))
    lines = read_decisions(out)
    assert len(lines) == 1
    assert set(answers) == {f"version 1, approved by {lines[0][2]}: champion"}
    assert get_aliases(out) == {"champion": "1"}


@on_both_databases
def test_the_command_and_the_sensor_at_once_write_one_line_and_move_the_aliases_once(out):
    decide(out, APPROVED, "1", "Ada", "")
    stop = threading.Event()
    seen: list[str] = []

    def tick() -> None:
        while not stop.is_set():
            seen.extend(apply_decisions(out))

    sensor = threading.Thread(target=tick)
    sensor.start()
    answers = [decide(out, APPROVED, "2", "Ben", ""), roll_back(out, "Cy", "")]
    stop.set()
    sensor.join()
    assert answers == [
        "version 2, approved by Ben: champion; version 1 is kept as previous",
        "version 2, rejected by Cy: champion no longer; version 1 is champion again",
    ]
    assert set(seen) <= set(answers)
    assert get_aliases(out) == {"champion": "1"}
    assert len(read_decisions(out)) == 3


def test_two_reviewers_in_two_processes_of_two_versions_leave_one_champion_and_two_lines(out):
    command = [sys.executable, "-m", "m3h_pipeline.cli.main", "review", "approve"]
    both = [
        subprocess.Popen(
            [*command, version, "--reviewer", name, "--out", out], stdout=subprocess.PIPE, text=True
        )
        for version, name in (("1", "Ada"), ("2", "Ben"))
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    assert sorted(read_decisions(out)) == [("1", APPROVED, "Ada", ""), ("2", APPROVED, "Ben", "")]
    last = read_decisions(out)[-1][0]
    assert get_aliases(out) == {"champion": last, "previous": "1" if last == "2" else "2"}


@on_both_databases
def test_two_sensors_at_once_carry_out_each_decision_once(out):
    decide(out, APPROVED, "1", "Ada", "")
    get_client(out).set_model_version_tag(NAME, "2", BY, "Ben")
    get_client(out).set_model_version_tag(NAME, "2", STATUS, APPROVED)
    messages: list[str] = []
    threads = [
        threading.Thread(target=lambda: messages.extend(apply_decisions(out))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert messages == ["version 2, approved by Ben: champion; version 1 is kept as previous"]
    assert get_aliases(out) == {"champion": "2", "previous": "1"}


CALLS = ["set_registered_model_alias", "delete_registered_model_alias", "set_model_version_tag"]


@pytest.mark.parametrize("act", ["promote", "roll back"])
def test_mlflow_going_down_at_any_call_leaves_one_champion_and_the_same_command_finishes(
    out, monkeypatch, act
):
    decide(out, APPROVED, "1", "Ada", "first")
    record_verdict(get_client(out), "2", make_verdict(True))
    lines = [("1", APPROVED, "Ada", "first"), ("2", APPROVED, "Ben", "second")]
    if act == "promote":
        command = partial(decide, out, APPROVED, "2", "Ben", "second")
    else:
        decide(out, APPROVED, "2", "Ben", "second")
        lines.append(("2", REJECTED, "Cy", "rollback: third"))
        command = partial(roll_back, out, "Cy", "third")
    expected = {"champion": "2", "previous": "1"} if act == "promote" else {"champion": "1"}
    survived = False
    for alive in range(12):
        left = alive

        def dies(name):
            real = getattr(MlflowClient, name)

            def call(self, *arguments, **named):
                nonlocal left
                if left <= 0:
                    raise MlflowException("connection refused")
                left -= 1
                return real(self, *arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(MlflowClient, name, dies(name))
            try:
                command()
                survived = True
            except InputError:
                pass
        during = get_aliases(out)
        assert during.get("champion") in ("1", "2")
        assert read_decisions(out) == lines
        if survived:
            break
    assert alive >= 3
    assert get_aliases(out) == expected
    assert apply_decisions(out) == []
    assert read_decisions(out) == lines


@on_both_databases
@pytest.mark.parametrize("finish", ["the sensor", "the same command"])
def test_a_decision_taken_while_mlflow_is_down_is_kept_and_carried_out_later(
    out, monkeypatch, finish
):
    def refuse(*_, **__):
        raise MlflowException("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_model_version_tag", refuse)
        patch.setattr(MlflowClient, "set_registered_model_alias", refuse)
        with pytest.raises(
            InputError, match="is in the audit table, but it is not carried out yet"
        ):
            decide(out, APPROVED, "3", "Ada", "now")
    assert get_aliases(out) == {}
    done = (
        apply_decisions(out)
        if finish == "the sensor"
        else [decide(out, APPROVED, "3", "Ada", "now")]
    )
    assert done == ["version 3, approved by Ada: champion"]
    assert get_aliases(out) == {"champion": "3"}
    assert get_client(out).get_model_version(NAME, "3").tags[STATUS] == APPROVED
    assert read_decisions(out) == [("3", APPROVED, "Ada", "now")]


def test_a_server_that_is_not_there_is_said_at_once_and_nothing_is_written(out, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"MLflow at http://127.0.0.1:9 can't be reached"):
        decide(out, APPROVED, "1", "Ada", "")
    with pytest.raises(InputError, match="can't be reached"):
        apply_decisions(out)
    assert read_decisions(out) == []


@pytest.mark.parametrize("how", ["version deleted", "alias removed"])
def test_a_champion_deleted_by_hand_is_said_and_can_be_rolled_back(out, how):
    for version in "12":
        decide(out, APPROVED, version, "Ada", "")
    if how == "version deleted":
        get_client(out).delete_model_version(NAME, "2")
    else:
        get_client(out).delete_registered_model_alias(NAME, "champion")
    messages = apply_decisions(out)
    assert len(messages) == 1
    assert "by hand in MLflow: nothing is scored" in messages[0]
    assert "brings back version 1" in messages[0]
    assert apply_decisions(out) == []
    assert len(read_decisions(out)) == 3
    roll_back(out, "Ben", "it was deleted")
    assert get_aliases(out) == {"champion": "1"}


def test_a_champion_made_by_hand_is_left_and_written_down(out):
    get_client(out).set_registered_model_alias(NAME, "champion", "3")
    assert apply_decisions(out) == [
        "version 3 was made champion by hand in MLflow, in the place of none"
    ]
    get_client(out).set_registered_model_alias(NAME, "champion", "2")
    file = out / "told.txt"
    config.save(config.Config(notify=config.NotifyConfig(command=f"cat > {file}")), out)
    hand = "version 2 was made champion by hand in MLflow, in the place of version 3"
    approval = (
        "version 1, approved by Ada: champion; version 2 is kept as previous; "
        "version 2 becomes the anchor, for there was none"
    )
    assert decide(out, APPROVED, "1", "Ada", "").splitlines() == [hand, approval]
    assert file.read_text() == f"M3H: {hand}"
    assert get_aliases(out) == {"champion": "1", "previous": "2"}
    assert len(read_decisions(out)) == 3


def test_a_version_deleted_before_its_approval_is_carried_out(out):
    with Audit(out).begin() as transaction:
        transaction.insert("1", APPROVED, "Ada", "")
    get_client(out).delete_model_version(NAME, "1")
    assert "was deleted in MLflow before" in apply_decisions(out)[0]
    assert get_aliases(out) == {}
