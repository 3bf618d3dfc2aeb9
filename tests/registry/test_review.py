"""Review: decisions, aliases, the audit table, and what happens when something breaks in the
middle.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from m3h_pipeline import config
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import review, tracking
from m3h_pipeline.registry.anchor import move_anchor
from m3h_pipeline.registry.audit import ANCHORED, POSTGRES_VARIABLE, Audit
from m3h_pipeline.registry.client import open_client
from m3h_pipeline.registry.listing import format_card
from m3h_pipeline.registry.promotion import apply_decisions
from m3h_pipeline.registry.review import decide, roll_back
from m3h_pipeline.registry.tags import ANCHOR, APPROVED, AUTO, BY, REASON, REJECTED, STATUS, UNKNOWN
from m3h_pipeline.registry.verdicts import record_verdict
from m3h_pipeline.registry.versions import RegistryState

pytestmark = pytest.mark.slow(90)

NAME = tracking.MODEL_NAME


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow database with three versions that wait, made once: its schema takes seconds."""
    out = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(
            "MLFLOW_TRACKING_URI", raising=False
        )  # MLflow sets it where a test before has connected
        client = open_client(out)
    client.create_registered_model(NAME)
    for number in "123":
        source = tmp_path_factory.mktemp("model")
        (source / "MLmodel").write_text(f"version {number}")
        client.create_model_version(NAME, source=source.as_uri(), tags={STATUS: "pending"})
    return out / "mlflow" / "mlflow.db"


@pytest.fixture(params=["sqlite", "postgres"])
def out(request, empty_store, tmp_path, monkeypatch) -> Path:
    """An out-folder whose audit table is in SQLite, or in PostgreSQL."""
    monkeypatch.delenv(POSTGRES_VARIABLE, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if request.param == "postgres":
        monkeypatch.setenv(POSTGRES_VARIABLE, request.getfixturevalue("postgres")[0])
    (tmp_path / "mlflow").mkdir()
    shutil.copy(empty_store, tmp_path / "mlflow" / "mlflow.db")
    config.save(config.Config(), tmp_path)
    return tmp_path


def client(out: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{out}/mlflow/mlflow.db")


def aliases(out: Path) -> dict[str, str]:
    """Who is what; the anchor has tests of its own."""
    state = RegistryState.fetch(client(out)).aliases
    return {alias: version for alias, version in state.items() if alias != ANCHOR}


def anchor(out: Path) -> str | None:
    return RegistryState.fetch(client(out)).aliases.get(ANCHOR)


def decisions(out: Path) -> list[tuple[str, str, str, str]]:
    return [(line.version, line.decision, line.who, line.why) for line in Audit(out).read_lines()]


def test_approved_promoted_and_rolled_back_at_once_with_who_and_why(out):
    answer = decide(out, APPROVED, "1", "Ada", "better on sepsis")
    assert answer == "version 1, approved by Ada: champion"
    assert aliases(out) == {"champion": "1"}
    assert client(out).get_model_version(NAME, "1").tags[STATUS] == APPROVED
    decide(out, APPROVED, "2", "Ben", "newer")
    assert aliases(out) == {"champion": "2", "previous": "1"}
    answer = roll_back(out, "Cy", "alarms doubled")
    assert answer == "version 2, rejected by Cy: champion no longer; version 1 is champion again"
    assert aliases(out) == {"champion": "1"}
    assert decisions(out) == [
        ("1", APPROVED, "Ada", "better on sepsis"),
        ("2", APPROVED, "Ben", "newer"),
        ("2", REJECTED, "Cy", "rollback: alarms doubled"),
    ]
    assert apply_decisions(out) == []
    version = client(out).get_model_version(NAME, "2")
    assert (version.tags[STATUS], version.tags[BY]) == (REJECTED, "Cy")


def test_a_tag_set_in_mlflow_s_pages_counts(out):
    client(out).set_model_version_tag(NAME, "2", STATUS, APPROVED)
    apply_decisions(out)
    assert aliases(out) == {"champion": "2"}
    assert decisions(out) == [("2", APPROVED, UNKNOWN, "")]
    client(out).set_model_version_tag(NAME, "2", STATUS, REJECTED)
    apply_decisions(out)
    assert aliases(out) == {}
    assert decisions(out)[1] == ("2", REJECTED, UNKNOWN, "")


def test_who_and_why_can_be_said_in_mlflow_s_pages_too(out):
    for key, value in ((BY, "Ada"), (REASON, "looked at it"), (STATUS, APPROVED)):
        client(out).set_model_version_tag(NAME, "1", key, value)
    apply_decisions(out)
    # A later change of the tag alone is not put down to Ada.
    client(out).set_model_version_tag(NAME, "1", STATUS, REJECTED)
    apply_decisions(out)
    assert decisions(out) == [
        ("1", APPROVED, "Ada", "looked at it"),
        ("1", REJECTED, UNKNOWN, ""),
    ]


def verdict(passed: bool, judged: int = 3) -> dict:
    check = {
        "name": "calibrated",
        "passed": passed,
        "reason": "off",
        "advice": "look at the curves",
    }
    trees = {"name": "not_worse_than_trees", "passed": False, "reason": "below", "severity": "warn"}
    return {"passed": passed, "judged": judged, "checks": [check, trees]}


def test_the_gate_s_verdict_waits_for_a_person_or_is_a_rejection_with_reasons(out):
    at = client(out)
    assert record_verdict(at, "1", verdict(True)) == "pending"
    assert aliases(out) == {"challenger": "1"}
    assert at.get_model_version(NAME, "2").tags[STATUS] == "superseded"
    at.set_model_version_tag(NAME, "3", STATUS, "pending")
    record_verdict(at, "3", verdict(False))
    tags = at.get_model_version(NAME, "3").tags
    assert (tags[STATUS], tags[BY]) == (REJECTED, "gate")
    # Why, and what to do about it.
    override = 'To accept the version all the same: m3h review approve 3 --reason "..."'
    assert tags[REASON] == f"calibrated: off. Look at the curves. {override}"
    assert override in format_card(out, "3")
    assert apply_decisions(out) == []
    assert aliases(out) == {"challenger": "1"}
    # A person may overrule the gate, and the gate never overrules a person.
    decide(out, APPROVED, "3", "Ada", "the calibration split is odd this month")
    assert aliases(out) == {"challenger": "1", "champion": "3"}
    assert record_verdict(at, "3", verdict(False)) == APPROVED


def test_nothing_promotes_itself_unless_configured_and_judged(out):
    record_verdict(client(out), "2", verdict(True))
    assert apply_decisions(out) == []
    assert apply_decisions(out, auto_promote=True) == [f"version 2, approved by {AUTO}: champion"]
    at = client(out)
    at.set_model_version_tag(NAME, "3", STATUS, "pending")
    record_verdict(at, "3", verdict(True, judged=0))
    assert apply_decisions(out, auto_promote=True) == []
    assert aliases(out) == {"champion": "2", "challenger": "3"}


def test_the_first_approved_version_stays_the_anchor_until_a_person_moves_it(out):
    for version in "12":
        decide(out, APPROVED, version, "Ada", "")
        apply_decisions(out)
    roll_back(out, "Ada", "alarms")
    apply_decisions(out)
    decide(out, APPROVED, "3", "Ada", "")
    apply_decisions(out)
    assert anchor(out) == "1"
    lines = decisions(out)
    assert "version 2 is the anchor; it was version 1" in move_anchor(out, "2", "Ben", "new tasks")
    assert anchor(out) == "2"
    assert decisions(out) == [*lines, ("2", ANCHORED, "Ben", "new tasks")]
    # The line says nothing about who scores: the next tick finds no champion moved by hand.
    assert apply_decisions(out) == []
    assert aliases(out) == {"champion": "3", "previous": "1"}
    with pytest.raises(InputError, match="version 2 is the anchor already"):
        move_anchor(out, "2", "Ben", "")
    with pytest.raises(InputError, match="there is no version 9; there are: 1, 2, 3"):
        move_anchor(out, "9", "Ben", "")


def test_an_anchor_that_is_gone_is_set_anew_by_the_next_approval_which_says_so(out):
    for version in "12":
        decide(out, APPROVED, version, "Ada", "")
        apply_decisions(out)
    client(out).delete_model_version(NAME, "1")
    assert anchor(out) is None
    told_them = decide(out, APPROVED, "3", "Ada", "")
    assert "version 2 becomes the anchor, for there was none" in told_them
    assert anchor(out) == "2"


def test_an_anchor_that_mlflow_refuses_leaves_no_line(out, monkeypatch):
    def down(*_, **__):
        raise MlflowException("connection refused")

    decide(out, APPROVED, "1", "Ada", "")
    apply_decisions(out)
    lines = decisions(out)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", down)
        with pytest.raises(InputError, match="can't be reached"):
            move_anchor(out, "2", "Ada", "")
    assert (decisions(out), anchor(out)) == (lines, "1")


def test_the_sole_pending_version_is_the_default(out):
    with pytest.raises(InputError, match="name a version: 1, 2, 3 waits for review"):
        decide(out, APPROVED, None, None, "")
    record_verdict(client(out), "3", verdict(True))
    assert "version 3" in decide(out, APPROVED, None, None, "")
    with pytest.raises(InputError, match="there is no version 9; there are: 1, 2, 3"):
        decide(out, APPROVED, "9", None, "")


# What breaks --------------------------------------------------------------------------------------


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


def test_two_reviewers_of_one_version_at_once_the_second_is_decisions(out, monkeypatch):
    answers = decide_together(monkeypatch, (out, APPROVED, "Ada"), (out, REJECTED, "Ben"))
    lines = decisions(out)
    assert len(lines) == 1
    assert sum(f"by {lines[0][2]} at" in answer for answer in answers) == 1
    assert aliases(out) == ({"champion": "1"} if lines[0][1] == APPROVED else {})


def test_two_reviewers_who_agree_leave_one_line(out, monkeypatch):
    answers = decide_together(monkeypatch, (out, APPROVED, "Ada"), (out, APPROVED, "Ben"))
    lines = decisions(out)
    assert len(lines) == 1
    assert set(answers) == {f"version 1, approved by {lines[0][2]}: champion"}
    assert aliases(out) == {"champion": "1"}


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
    assert aliases(out) == {"champion": "1"}
    assert len(decisions(out)) == 3


def test_two_reviewers_in_two_processes_of_two_versions_leave_one_champion_and_two_lines(out):
    command = [sys.executable, "-m", "m3h_pipeline.cli.main", "review", "approve"]
    both = [
        subprocess.Popen(
            [*command, version, "--reviewer", name, "--out", out], stdout=subprocess.PIPE, text=True
        )
        for version, name in (("1", "Ada"), ("2", "Ben"))
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    assert sorted(decisions(out)) == [("1", APPROVED, "Ada", ""), ("2", APPROVED, "Ben", "")]
    last = decisions(out)[-1][0]
    assert aliases(out) == {"champion": last, "previous": "1" if last == "2" else "2"}


def test_two_sensors_at_once_carry_out_each_decision_once(out):
    decide(out, APPROVED, "1", "Ada", "")
    client(out).set_model_version_tag(NAME, "2", BY, "Ben")
    client(out).set_model_version_tag(NAME, "2", STATUS, APPROVED)
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.extend(apply_decisions(out))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["version 2, approved by Ben: champion; version 1 is kept as previous"]
    assert aliases(out) == {"champion": "2", "previous": "1"}


CALLS = ["set_registered_model_alias", "delete_registered_model_alias", "set_model_version_tag"]


@pytest.mark.parametrize("act", ["promote", "roll back"])
def test_mlflow_going_down_at_any_call_leaves_one_champion_and_the_same_command_finishes(
    out, monkeypatch, act
):
    decide(out, APPROVED, "1", "Ada", "first")
    record_verdict(client(out), "2", verdict(True))
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
        during = aliases(out)
        assert during.get("champion") in ("1", "2")
        assert decisions(out) == lines
        if survived:
            break
    assert alive >= 3
    assert aliases(out) == expected
    assert apply_decisions(out) == []
    assert decisions(out) == lines


@pytest.mark.parametrize("finish", ["the sensor", "the same command"])
def test_a_decision_taken_while_mlflow_is_down_is_kept_and_carried_out_later(
    out, monkeypatch, finish
):
    def down(*_, **__):
        raise MlflowException("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_model_version_tag", down)
        patch.setattr(MlflowClient, "set_registered_model_alias", down)
        with pytest.raises(
            InputError, match="is in the audit table, but it is not carried out yet"
        ):
            decide(out, APPROVED, "3", "Ada", "now")
    assert aliases(out) == {}
    done = (
        apply_decisions(out)
        if finish == "the sensor"
        else [decide(out, APPROVED, "3", "Ada", "now")]
    )
    assert done == ["version 3, approved by Ada: champion"]
    assert aliases(out) == {"champion": "3"}
    assert client(out).get_model_version(NAME, "3").tags[STATUS] == APPROVED
    assert decisions(out) == [("3", APPROVED, "Ada", "now")]


def test_a_server_that_is_not_there_is_said_at_once_and_nothing_is_written(out, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"MLflow at http://127.0.0.1:9 can't be reached"):
        decide(out, APPROVED, "1", "Ada", "")
    with pytest.raises(InputError, match="can't be reached"):
        apply_decisions(out)
    assert decisions(out) == []


@pytest.mark.parametrize("how", ["version deleted", "alias removed"])
def test_a_champion_deleted_by_hand_is_said_and_can_be_rolled_back(out, how):
    for version in "12":
        decide(out, APPROVED, version, "Ada", "")
    if how == "version deleted":
        client(out).delete_model_version(NAME, "2")
    else:
        client(out).delete_registered_model_alias(NAME, "champion")
    said = apply_decisions(out)
    assert len(said) == 1
    assert "by hand in MLflow: nothing is scored" in said[0]
    assert "brings back version 1" in said[0]
    assert apply_decisions(out) == []
    assert len(decisions(out)) == 3
    roll_back(out, "Ben", "it was deleted")
    assert aliases(out) == {"champion": "1"}


def test_a_champion_made_by_hand_is_left_and_written_down(out):
    client(out).set_registered_model_alias(NAME, "champion", "3")
    assert apply_decisions(out) == [
        "version 3 was made champion by hand in MLflow, in the place of none"
    ]
    client(out).set_registered_model_alias(NAME, "champion", "2")
    file = out / "told.txt"
    config.save(config.Config(notify=config.NotifyConfig(command=f"cat > {file}")), out)
    hand = "version 2 was made champion by hand in MLflow, in the place of version 3"
    approval = (
        "version 1, approved by Ada: champion; version 2 is kept as previous; "
        "version 2 becomes the anchor, for there was none"
    )
    assert decide(out, APPROVED, "1", "Ada", "").splitlines() == [hand, approval]
    assert file.read_text() == f"M3H: {hand}"
    assert aliases(out) == {"champion": "1", "previous": "2"}
    assert len(decisions(out)) == 3


def test_a_version_deleted_before_its_approval_is_carried_out(out):
    with Audit(out).begin() as transaction:
        transaction.insert("1", APPROVED, "Ada", "")
    client(out).delete_model_version(NAME, "1")
    assert "was deleted in MLflow before" in apply_decisions(out)[0]
    assert aliases(out) == {}


def test_there_is_nothing_to_roll_back_to(out):
    decide(out, APPROVED, "1", "Ada", "")
    with pytest.raises(InputError, match="no previous champion"):
        roll_back(out, "Ada", "")
    with pytest.raises(InputError, match="version 1 is the champion already"):
        decide(out, APPROVED, "1", "Ben", "")


@pytest.mark.parametrize("out", ["sqlite"], indirect=True)
def test_the_command_line_lists_versions_and_decisions(out):
    decide(out, APPROVED, "1", "Ada", "good")
    command = [sys.executable, "-m", "m3h_pipeline.cli.main", "review"]
    shown = subprocess.run(
        [*command, "list", "--out", out],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert "version    1  approved                anchor, champion" in shown.stdout
    assert "approved by Ada: good" in shown.stdout
    again = subprocess.run(
        [*command, "approve", "1", "--out", out],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert again.returncode == 1
    assert "version 1 is the champion already" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize("out", ["sqlite"], indirect=True)
def test_where_a_version_stands_is_said_as_it_is_now(out):
    at = client(out)
    record_verdict(at, "3", verdict(False))
    record_verdict(at, "2", verdict(True))
    state = RegistryState.fetch(at)
    assert state.describe("1") == (
        "gave way to a later candidate before anybody decided on it; there is no champion"
    )
    assert state.describe("2") == "passed the gate and waits for review"
    assert state.describe("3") == "was rejected by the gate"
    decide(out, APPROVED, "2", "Ada", "")
    decide(out, APPROVED, "1", "Ada", "")
    decide(out, REJECTED, "2", "Ben", "")
    state = RegistryState.fetch(at)
    assert state.describe("1") == "is the champion"
    assert state.describe("2") == "was rejected by Ben; the champion is version 1"
    at.delete_model_version(NAME, "3")
    assert RegistryState.fetch(at).describe("3") == "was deleted in MLflow"
