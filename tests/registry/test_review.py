"""Review: decisions, aliases, the audit table, and what people are told."""

from __future__ import annotations

import pytest
from command_line import m3h
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from review_store import (
    NAME,
    get_aliases,
    get_anchor,
    get_client,
    make_verdict,
    on_both_databases,
    read_decisions,
)

from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import audit
from m3h_pipeline.registry.anchor import move_anchor
from m3h_pipeline.registry.audit import ANCHORED, Audit
from m3h_pipeline.registry.listing import format_card
from m3h_pipeline.registry.promotion import apply_decisions
from m3h_pipeline.registry.review import decide, roll_back
from m3h_pipeline.registry.tags import APPROVED, AUTO, BY, REASON, REJECTED, STATUS, UNKNOWN
from m3h_pipeline.registry.verdicts import record_verdict
from m3h_pipeline.registry.versions import RegistryState

pytestmark = pytest.mark.slow(45)


@on_both_databases
def test_approved_promoted_and_rolled_back_at_once_with_who_and_why(out):
    answer = decide(out, APPROVED, "1", "Ada", "better on sepsis")
    assert answer == "version 1, approved by Ada: champion"
    assert get_aliases(out) == {"champion": "1"}
    assert get_client(out).get_model_version(NAME, "1").tags[STATUS] == APPROVED
    decide(out, APPROVED, "2", "Ben", "newer")
    assert get_aliases(out) == {"champion": "2", "previous": "1"}
    answer = roll_back(out, "Cy", "alarms doubled")
    assert answer == "version 2, rejected by Cy: champion no longer; version 1 is champion again"
    assert get_aliases(out) == {"champion": "1"}
    assert read_decisions(out) == [
        ("1", APPROVED, "Ada", "better on sepsis"),
        ("2", APPROVED, "Ben", "newer"),
        ("2", REJECTED, "Cy", "rollback: alarms doubled"),
    ]
    assert apply_decisions(out) == []
    version = get_client(out).get_model_version(NAME, "2")
    assert (version.tags[STATUS], version.tags[BY]) == (REJECTED, "Cy")


@on_both_databases
def test_a_clock_that_is_set_back_decides_nothing(out, monkeypatch):
    """The champion is that of the line that was carried out last, whatever the clock said then."""
    clock = iter(f"{year}-01-01T00:00:00.000000+00:00" for year in range(2030, 1990, -1))
    monkeypatch.setattr(audit, "_format_now", lambda: next(clock))
    for number in "123":
        decide(out, APPROVED, number, "Ada", "")
    assert get_aliases(out) == {"champion": "3", "previous": "2"}
    assert apply_decisions(out) == []
    roll_back(out, "Ben", "alarms doubled")
    assert get_aliases(out) == {"champion": "2"}
    assert apply_decisions(out) == []
    lines = Audit(out).read_lines()
    assert [line.settled_order for line in lines] == [1, 2, 3, 4]
    assert [line.at for line in lines] == sorted((line.at for line in lines), reverse=True)


def test_a_tag_set_in_mlflow_s_pages_counts(out):
    get_client(out).set_model_version_tag(NAME, "2", STATUS, APPROVED)
    apply_decisions(out)
    assert get_aliases(out) == {"champion": "2"}
    assert read_decisions(out) == [("2", APPROVED, UNKNOWN, "")]
    get_client(out).set_model_version_tag(NAME, "2", STATUS, REJECTED)
    apply_decisions(out)
    assert get_aliases(out) == {}
    assert read_decisions(out)[1] == ("2", REJECTED, UNKNOWN, "")


def test_who_and_why_can_be_said_in_mlflow_s_pages_too(out):
    for key, value in ((BY, "Ada"), (REASON, "looked at it"), (STATUS, APPROVED)):
        get_client(out).set_model_version_tag(NAME, "1", key, value)
    apply_decisions(out)
    # A later change of the tag alone is not put down to Ada.
    get_client(out).set_model_version_tag(NAME, "1", STATUS, REJECTED)
    apply_decisions(out)
    assert read_decisions(out) == [
        ("1", APPROVED, "Ada", "looked at it"),
        ("1", REJECTED, UNKNOWN, ""),
    ]


def test_the_gate_s_verdict_waits_for_a_person_or_is_a_rejection_with_reasons(out):
    at = get_client(out)
    assert record_verdict(at, "1", make_verdict(True)) == "pending"
    assert get_aliases(out) == {"challenger": "1"}
    assert at.get_model_version(NAME, "2").tags[STATUS] == "superseded"
    at.set_model_version_tag(NAME, "3", STATUS, "pending")
    record_verdict(at, "3", make_verdict(False))
    tags = at.get_model_version(NAME, "3").tags
    assert (tags[STATUS], tags[BY]) == (REJECTED, "gate")
    # Why, and what to do about it.
    override = 'To accept the version all the same: m3h review approve 3 --reason "..."'
    assert tags[REASON] == f"calibrated: off. Look at the curves. {override}"
    assert override in format_card(out, "3")
    assert apply_decisions(out) == []
    assert get_aliases(out) == {"challenger": "1"}
    # A person may overrule the gate, and the gate never overrules a person.
    decide(out, APPROVED, "3", "Ada", "the calibration split is odd this month")
    assert get_aliases(out) == {"challenger": "1", "champion": "3"}
    assert record_verdict(at, "3", make_verdict(False)) == APPROVED


def test_nothing_promotes_itself_unless_configured_and_judged(out):
    record_verdict(get_client(out), "2", make_verdict(True))
    assert apply_decisions(out) == []
    assert apply_decisions(out, auto_promote=True) == [f"version 2, approved by {AUTO}: champion"]
    at = get_client(out)
    at.set_model_version_tag(NAME, "3", STATUS, "pending")
    record_verdict(at, "3", make_verdict(True, judged=0))
    assert apply_decisions(out, auto_promote=True) == []
    assert get_aliases(out) == {"champion": "2", "challenger": "3"}


@on_both_databases
def test_the_first_approved_version_stays_the_anchor_until_a_person_moves_it(out):
    for version in "12":
        decide(out, APPROVED, version, "Ada", "")
        apply_decisions(out)
    roll_back(out, "Ada", "alarms")
    apply_decisions(out)
    decide(out, APPROVED, "3", "Ada", "")
    apply_decisions(out)
    assert get_anchor(out) == "1"
    lines = read_decisions(out)
    assert "version 2 is the anchor; it was version 1" in move_anchor(out, "2", "Ben", "new tasks")
    assert get_anchor(out) == "2"
    assert read_decisions(out) == [*lines, ("2", ANCHORED, "Ben", "new tasks")]
    # The line says nothing about who scores: the next tick finds no champion moved by hand.
    assert apply_decisions(out) == []
    assert get_aliases(out) == {"champion": "3", "previous": "1"}
    with pytest.raises(InputError, match="version 2 is the anchor already"):
        move_anchor(out, "2", "Ben", "")
    with pytest.raises(InputError, match="there is no version 9; there are: 1, 2, 3"):
        move_anchor(out, "9", "Ben", "")


def test_an_anchor_that_is_gone_is_set_anew_by_the_next_approval_which_says_so(out):
    for version in "12":
        decide(out, APPROVED, version, "Ada", "")
        apply_decisions(out)
    get_client(out).delete_model_version(NAME, "1")
    assert get_anchor(out) is None
    message = decide(out, APPROVED, "3", "Ada", "")
    assert "version 2 becomes the anchor, for there was none" in message
    assert get_anchor(out) == "2"


def test_an_anchor_that_mlflow_refuses_leaves_no_line(out, monkeypatch):
    def refuse(*_, **__):
        raise MlflowException("connection refused")

    decide(out, APPROVED, "1", "Ada", "")
    apply_decisions(out)
    lines = read_decisions(out)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", refuse)
        with pytest.raises(InputError, match="can't be reached"):
            move_anchor(out, "2", "Ada", "")
    assert (read_decisions(out), get_anchor(out)) == (lines, "1")


def test_the_sole_pending_version_is_the_default(out):
    with pytest.raises(InputError, match="name a version: 1, 2, 3 waits for review"):
        decide(out, APPROVED, None, None, "")
    record_verdict(get_client(out), "3", make_verdict(True))
    assert "version 3" in decide(out, APPROVED, None, None, "")
    with pytest.raises(InputError, match="there is no version 9; there are: 1, 2, 3"):
        decide(out, APPROVED, "9", None, "")


def test_there_is_nothing_to_roll_back_to(out):
    decide(out, APPROVED, "1", "Ada", "")
    with pytest.raises(InputError, match="no previous champion"):
        roll_back(out, "Ada", "")
    with pytest.raises(InputError, match="version 1 is the champion already"):
        decide(out, APPROVED, "1", "Ben", "")


def test_the_command_line_lists_versions_and_decisions(out):
    decide(out, APPROVED, "1", "Ada", "good")
    shown = m3h("review", "list", "--out", out)
    assert shown.returncode == 0, shown.stderr
    assert "version    1  approved                anchor, champion" in shown.stdout
    assert "approved by Ada: good" in shown.stdout
    again = m3h("review", "approve", "1", "--out", out)
    assert again.returncode == 1
    assert "version 1 is the champion already" in again.stderr
    assert "Traceback" not in again.stderr


def test_where_a_version_stands_is_said_as_it_is_now(out):
    at = get_client(out)
    record_verdict(at, "3", make_verdict(False))
    record_verdict(at, "2", make_verdict(True))
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
