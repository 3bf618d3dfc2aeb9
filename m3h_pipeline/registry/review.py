"""Review: a person decides, one function moves the aliases.

A decision is the tag ``validation_status`` (approved or rejected) of a version in MLflow, set in
its pages, or an audit line that ``m3h review`` writes. `settle` carries decisions out: it writes a
line for what was decided in MLflow's pages, does what each line that is not settled yet asks for,
and says what it did. The command calls it at once, the sensor every few seconds. Both may act at
the same time: whoever holds the audit table does the work, and the other finds it done. Every step
can be repeated: what was interrupted (by a kill, by MLflow going down) is done by the next command
or tick.

Aliases: ``champion`` is what scores, ``previous`` the one before, ``challenger`` the last candidate
that passed the gate, ``anchor`` what candidates are held against beside the champion
(m3h_pipeline/registry/anchor.py). An alias names one version, so there are never two champions. To
reject the champion is to roll back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3h_pipeline import config as configuration
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tag_answers, tracking
from m3h_pipeline.registry.anchor import ANCHOR, set_first_anchor
from m3h_pipeline.registry.approval import digest_now, mismatch
from m3h_pipeline.registry.audit import (
    APPROVED,
    FOUND,
    REJECTED,
    Audit,
    Book,
    Line,
    printable,
    system_user,
)
from m3h_pipeline.registry.gate.advice import rejecting, what_to_do
from m3h_pipeline.registry.location import settle_location
from m3h_pipeline.registry.notify import notify
from m3h_pipeline.registry.tag_answers import BY, PENDING, REASON, STATUS, SUPERSEDED
from m3h_pipeline.registry.versions import CHAMPION

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREVIOUS = "previous"
CHALLENGER = "challenger"
GATE = "gate"
# How many tasks the gate could judge.
JUDGED = "m3h.gate_judged"
# What to do about the gate's rejection.
ADVICE = "m3h.gate_advice"
AUTO = "m3h.toml: [review] auto_promote"
UNKNOWN = "unknown (in MLflow)"
_BY_HAND = "by hand in MLflow"
_ROLLBACK = "rollback: "


@dataclass(frozen=True)
class Version:
    """A version as it stands in MLflow."""

    number: str
    tags: Mapping[str, str]
    description: str = ""

    @property
    def status(self) -> str:
        """What its tag says."""
        return self.tags.get(STATUS, "")

    @property
    def by_gate(self) -> bool:
        """Whether the gate, not a person, rejected it."""
        return self.status == REJECTED and self.tags.get(BY) == GATE


@dataclass(frozen=True)
class Standing:
    """All versions by number, and which version each alias names."""

    versions: Mapping[str, Version]
    aliases: Mapping[str, str]

    @classmethod
    def now(cls, client: MlflowClient) -> Standing:
        """As MLflow says now."""
        models = client.search_registered_models(f"name='{tracking.MODEL_NAME}'")
        found = client.search_model_versions(f"name='{tracking.MODEL_NAME}'")
        versions = [Version(str(v.version), dict(v.tags), v.description or "") for v in found]
        return cls(
            {
                version.number: version
                for version in sorted(versions, key=lambda version: int(version.number))
            },
            {alias: str(number) for alias, number in models[0].aliases.items()} if models else {},
        )

    def named(self, version: str) -> list[str]:
        """The aliases of a version."""
        return sorted(alias for alias, number in self.aliases.items() if number == version)

    def describe(self, number: str) -> str:
        """Where a version stands now, in words: "is the champion", "waits for review"."""
        if number not in self.versions:
            return "was deleted in MLflow"
        version = self.versions[number]
        champion = self.aliases.get(CHAMPION)
        if champion == number:
            return "is the champion"
        if version.by_gate:
            return "was rejected by the gate"
        if version.status == PENDING:
            return "passed the gate and waits for review"
        rest = f"; the champion is version {champion}" if champion else "; there is no champion"
        if version.status == REJECTED:
            return f"was rejected by {version.tags.get(BY) or UNKNOWN}{rest}"
        if version.status == SUPERSEDED:
            return f"gave way to a later candidate before anybody decided on it{rest}"
        if version.status == APPROVED:
            return f"was approved{rest}"
        return f"was not judged{rest}"


def connect(out: Path) -> MlflowClient:
    """MLflow's client; a server that is down is noticed within seconds, not minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    settle_location(out)
    from mlflow import MlflowClient

    uri = configuration.mlflow_uri(out)
    with reached(uri):
        tracking.connect(uri, out / "mlflow" / "artifacts")
    return MlflowClient(uri)


@contextmanager
def reached(uri: str) -> Generator[None]:
    """What fails within because MLflow does not answer becomes an `InputError` that says so."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise InputError(
            f"MLflow at {_without_password(uri)} can't be reached or refuses "
            f"({type(error).__name__})"
        ) from error


# What a person does -------------------------------------------------------------------------------


def decide(out: Path, decision: str, version: str | None, who: str | None, why: str) -> str:
    """``m3h review approve`` and ``reject``: decide and carry it out; returns what to tell the
    person.

    Raises `InputError` where there is no such version, nothing to decide, or another reviewer was
    faster.
    """

    def choose(standing: Standing) -> tuple[str, str]:
        return _need(standing, version or _sole_pending(standing)).number, decision

    def is_same(line: Line) -> bool:
        return line.decision == decision and version in (None, line.version)

    return _decide(out, choose, is_same, who, why)


def roll_back(out: Path, who: str | None, why: str) -> str:
    """``m3h review rollback``: reject the champion, so that the previous one takes its place.

    Where the champion was deleted by hand, the previous one is approved again.
    """

    def choose(standing: Standing) -> tuple[str, str]:
        if PREVIOUS not in standing.aliases:
            raise InputError(
                "there is no previous champion to go back to; `m3h review reject VERSION` takes "
                "the champion's alias away"
            )
        if CHAMPION in standing.aliases:
            return standing.aliases[CHAMPION], REJECTED
        return standing.aliases[PREVIOUS], APPROVED

    def is_same(line: Line) -> bool:
        return line.why.startswith(_ROLLBACK)

    return _decide(out, choose, is_same, who, f"{_ROLLBACK}{why}")


def _decide(
    out: Path,
    choose: Callable[[Standing], tuple[str, str]],
    is_same: Callable[[Line], bool],
    who: str | None,
    why: str,
) -> str:
    """Write the audit line and carry it out, after all that was decided before.

    ``choose`` names the version and the decision. Where the same (``is_same``) was decided before
    and interrupted, or by somebody else since this began, no second line is written.
    """
    audit = Audit(out)
    # Before MLflow is imported, which takes seconds: what others decide meanwhile is noticed.
    settled_then = {line.id for line in audit.lines() if line.settled_at}
    client = connect(out)
    with reached(client.tracking_uri):
        done = _settle(audit, client, auto_promote=False)
        with audit.alone() as book:
            new = [line for line in book.lines() if line.id not in settled_then and is_same(line)]
            number = (
                new[-1].id if new else _write_line(book, client, choose, settled_then, who, why)
            )
    try:
        with reached(client.tracking_uri):
            done += _settle(audit, client, auto_promote=False)
    except InputError as error:
        raise InputError(
            f"the decision is in the audit table, but it is not carried out yet: {error}. Give the "
            "same command again when it is back; the sensor `review` of `m3h ui` does so too"
        ) from error
    own = next(_words_of(line) for line in audit.lines() if line.id == number)
    others = [words for words in done if words != own]
    return "\n".join([*others, own, *notify_by_hand(out, others)])


def _write_line(
    book: Book,
    client: MlflowClient,
    choose: Callable[[Standing], tuple[str, str]],
    settled_then: Collection[int],
    who: str | None,
    why: str,
) -> int:
    standing = Standing.now(client)
    version, decision = choose(standing)
    _refuse_twice(book, standing, version, decision, settled_then)
    digest = _digest_to_approve(book, version) if decision == APPROVED else None
    user = system_user()
    return book.write(version, decision, who or user, why, digest=digest, system_user=user)


def _digest_to_approve(book: Book, version: str) -> str:
    """The digest of what a person approves; files that have changed since an earlier approval are
    refused.
    """
    digest = digest_now(version)
    last = book.last(version)
    if last and last.decision == APPROVED and last.digest not in (None, digest):
        raise InputError(mismatch(version, {"at": f"{last.at[:19]}Z", "by": last.who}))
    return digest


def _digest_where_readable(version: str) -> str | None:
    """For an approval that no command waits for: without its files it stands, and scores
    nothing.
    """
    try:
        return digest_now(version)
    except InputError:
        return None


def overview(out: Path) -> str:
    """``m3h review list``: a line a version, then the audit table."""
    client = connect(out)
    audit = Audit(out)
    with reached(client.tracking_uri):
        standing = Standing.now(client)
    versions = [
        f"version {version.number:>4}  {version.status or 'not judged':<10}  "
        f"{version.tags.get('snapshot', ''):<10}  {', '.join(standing.named(version.number))}".rstrip()
        + _answered(version)
        for version in standing.versions.values()
    ]
    lines = [
        f"{line.at[:19]}Z  version {line.version:>4}  {line.decision} by {line.who}: "
        f"{line.why or 'no reason given'}\n"
        f"{'':22}{line.outcome if line.settled_at else 'not carried out yet'}{_on_record(line)}"
        for line in audit.lines()
    ]
    return "\n".join(
        [
            *(versions or ["no version is registered yet"]),
            "",
            *(lines or ["nothing was decided yet"]),
        ]
    )


def _answered(version: Version) -> str:
    words = tag_answers.mistake(version.tags)
    return f"\n{'':14}{words}" if words else ""


def _on_record(line: Line) -> str:
    """As whom the command ran, and the beginning of the digest, where the line holds them."""
    user = f"system user {line.system_user}" if line.system_user else ""
    files = f"files {line.digest[:12]}" if line.digest else ""
    facts = [fact for fact in (user, files) if fact]
    return f" ({', '.join(facts)})" if facts else ""


def card(out: Path, version: str | None) -> str:
    """``m3h review show``: the model card, and what the gate or a person said."""
    client = connect(out)
    with reached(client.tracking_uri):
        standing = Standing.now(client)
    known = _need(standing, version or _sole_pending(standing))
    said = f"{known.status or 'not judged'} {known.tags.get(BY, '')} {known.tags.get(REASON, '')}".strip()
    return f"{known.description}\n\nStatus: {said}"


def _need(standing: Standing, version: str) -> Version:
    if version not in standing.versions:
        raise InputError(
            f"there is no version {version}; there are: {', '.join(standing.versions) or 'none'}"
        )
    return standing.versions[version]


def _sole_pending(standing: Standing) -> str:
    pending = [
        version.number for version in standing.versions.values() if version.status == PENDING
    ]
    if len(pending) != 1:
        raise InputError(
            f"name a version: {', '.join(pending) if pending else 'none'} waits for review"
        )
    return pending[0]


def _refuse_twice(
    book: Book, standing: Standing, version: str, decision: str, settled_then: Collection[int]
) -> None:
    """Refuse what was decided meanwhile by another reviewer, and what is so already."""
    last = book.last(version)
    if last and last.id not in settled_then:
        raise InputError(
            f"version {version} was {last.decision} by {last.who} at {last.at[:19]}Z, a moment "
            "before: nothing was written; look at `m3h review list` and decide again if need be"
        )
    known = standing.versions[version]
    is_champion = standing.aliases.get(CHAMPION) == version
    has_digest = last is not None and last.decision == APPROVED and last.digest is not None
    if (decision == APPROVED and is_champion and has_digest) or (
        decision == REJECTED == known.status and not known.by_gate
    ):
        raise InputError(
            f"version {version} is {'the champion' if is_champion else 'rejected'} already"
        )


# What carries it out ------------------------------------------------------------------------------


def settle(out: Path, *, auto_promote: bool = False) -> list[str]:
    """Carry out all that was decided; returns a line for each thing done.

    Raises `InputError` where MLflow can't be reached: what is left is done next time.
    """
    client = connect(out)
    audit = Audit(out)
    with reached(client.tracking_uri):
        return _settle(audit, client, auto_promote=auto_promote)


def notify_by_hand(out: Path, lines: Sequence[str]) -> list[str]:
    """Tell by [notify] that the champion was changed by hand; returns what went wrong."""
    if not any(_BY_HAND in line for line in lines):
        return []
    return notify(configuration.load(out).notify, "M3H: " + "; ".join(lines))


def _settle(audit: Audit, client: MlflowClient, *, auto_promote: bool) -> list[str]:
    said: list[str] = []
    with audit.alone() as book:
        standing = Standing.now(client)
        said += tag_answers.answer(
            client, {number: known.tags for number, known in standing.versions.items()}
        )
        _notice_decisions(book, standing)
        if auto_promote:
            _promote_unseen(book, standing)
    for line in audit.lines():
        if line.settled_at is None:
            said += _carry_out(audit, client, line.id)
    with audit.alone() as book:
        said += _notice_hand(book, Standing.now(client), None)
    return said


def _notice_decisions(book: Book, standing: Standing) -> None:
    """Write a line for each version that was decided upon in MLflow's pages."""
    for version in standing.versions.values():
        last = book.last(version.number)
        # A line that waits comes before the tag, which may not have been set for want of a server.
        if (
            version.status not in (APPROVED, REJECTED)
            or version.by_gate
            or (last and last.settled_at is None)
        ):
            continue
        if last is None or last.decision != version.status:
            by = printable(version.tags.get(BY, ""))
            # The name of an earlier decision is still there: nobody knows who changed the tag after
            # it.
            who = by if by and by not in (GATE, last.who if last else "") else UNKNOWN
            why = version.tags.get(REASON, "") if by and who == by else ""
            digest = _digest_where_readable(version.number) if version.status == APPROVED else None
            book.write(version.number, version.status, who, why, digest=digest)


def _promote_unseen(book: Book, standing: Standing) -> None:
    """Approve the challenger without a person, where it was judged at all and nobody has decided on
    it.
    """
    challenger = standing.versions.get(standing.aliases.get(CHALLENGER, ""))
    if (
        challenger is None
        or challenger.status != PENDING
        or challenger.tags.get(JUDGED, "0") == "0"
    ):
        return
    if book.last(challenger.number) is None:
        digest = _digest_where_readable(challenger.number)
        book.write(challenger.number, APPROVED, AUTO, "passed the gate", digest=digest)


def _notice_hand(book: Book, standing: Standing, next_line: Line | None) -> list[str]:
    """Write a line where somebody moved or deleted the champion by hand; the alias is left as they
    left it.
    """
    now = standing.aliases.get(CHAMPION)
    known = book.champion()
    half_done = next_line is not None and next_line.champion == (now or "")
    if now == known or half_done:
        return []
    if now is None:
        how = "was deleted" if known not in standing.versions else "lost its alias"
        back = standing.aliases.get(PREVIOUS)
        rest = (
            f"`m3h review rollback` brings back version {back}"
            if back
            else "approve another version"
        )
        outcome = (
            f"the champion, version {known}, {how} {_BY_HAND}: nothing is scored until then: {rest}"
        )
    else:
        former = f"version {known}" if known else "none"
        outcome = f"version {now} was made champion {_BY_HAND}, in the place of {former}"
    line = book.write(now or known or "", FOUND, UNKNOWN, "")
    book.plan(line, outcome, now)
    book.settle(line)
    return [outcome]


def _carry_out(audit: Audit, client: MlflowClient, number: int) -> list[str]:
    """Plan one line, then do it; each in a transaction of its own, so that a kill leaves the plan
    to go on from.
    """
    said: list[str] = []
    with audit.alone() as book:
        line = book.line(number)
        standing = Standing.now(client)
        if line.settled_at is None:
            said += _notice_hand(book, standing, line)
            if line.outcome is None:
                book.plan(number, *_planned(standing, line))
    with audit.alone() as book:
        line = book.line(number)
        standing = Standing.now(client)
        if line.settled_at is not None:  # another process was faster
            return said
        if line.version in standing.versions:
            _move(client, standing.aliases, line)
            _set_tags(client, line.version, line.decision, line.who, line.why)
        book.settle(number)
    return [*said, _words_of(line)]


def _words_of(line: Line) -> str:
    return f"version {line.version}, {line.decision} by {line.who}: {line.outcome}"


def _planned(standing: Standing, line: Line) -> tuple[str, str | None]:
    """What will come of a decision, in words, and who will be champion."""
    champion = standing.aliases.get(CHAMPION)
    back = standing.aliases.get(PREVIOUS)
    if line.version not in standing.versions:
        return "the version was deleted in MLflow before this could be carried out", champion
    if line.decision == APPROVED:
        kept = champion if champion != line.version else None
        outcome = "champion" + (f"; version {kept} is kept as previous" if kept else "")
        if kept and ANCHOR not in standing.aliases:
            outcome += f"; version {kept} becomes the anchor, for there was none"
        return outcome, line.version
    if champion != line.version:
        return "not the champion", champion
    if back and back != line.version:
        return f"champion no longer; version {back} is champion again", back
    return (
        "champion no longer; there is no previous one, and nothing is scored until another is "
        "approved",
        None,
    )


def _move(client: MlflowClient, aliases: Mapping[str, str], line: Line) -> None:
    """Bring the aliases to where the plan wants them; can be repeated after any of its calls."""
    former = aliases.get(CHAMPION)
    champion = line.champion or None
    if champion and line.decision == APPROVED:
        set_first_anchor(client, aliases, former, champion)
    if former != champion:
        if former and line.decision == APPROVED:
            # First the one that must not be lost. Until the next call the former one stays
            # champion.
            client.set_registered_model_alias(tracking.MODEL_NAME, PREVIOUS, former)
        if champion:
            client.set_registered_model_alias(tracking.MODEL_NAME, CHAMPION, champion)
        else:
            client.delete_registered_model_alias(tracking.MODEL_NAME, CHAMPION)
    now = Standing.now(client).aliases
    done_with = (line.version, champion)
    for alias in (PREVIOUS, CHALLENGER):
        if now.get(alias) and now[alias] in done_with:
            client.delete_registered_model_alias(tracking.MODEL_NAME, alias)


def _set_tags(client: MlflowClient, version: str, status: str, who: str, why: str) -> None:
    """The status last: it is what people and the sensor look at."""
    for key, value in ((BY, who), (REASON, why), (STATUS, status)):
        client.set_model_version_tag(tracking.MODEL_NAME, version, key, value[:5000])


# What the gate says -------------------------------------------------------------------------------


def conclude(client: MlflowClient, version: str, verdict: Mapping[str, Any]) -> str:
    """Write the gate's verdict on a version: challenger and pending, or rejected with the reasons;
    returns the status.

    What a person has decided stays as it is. A candidate that passes takes the place of those still
    waiting.
    """
    standing = Standing.now(client)
    known = standing.versions[version]
    if known.status in (APPROVED, SUPERSEDED) or (known.status == REJECTED and not known.by_gate):
        return known.status
    client.set_model_version_tag(tracking.MODEL_NAME, version, JUDGED, str(verdict["judged"]))
    if not verdict["passed"]:
        reasons = "; ".join(f"{check['name']}: {check['reason']}" for check in rejecting(verdict))
        advice = what_to_do(verdict, version)
        client.set_model_version_tag(tracking.MODEL_NAME, version, ADVICE, advice)
        if standing.aliases.get(CHALLENGER) == version:
            client.delete_registered_model_alias(tracking.MODEL_NAME, CHALLENGER)
        _set_tags(client, version, REJECTED, GATE, f"{reasons}. {advice}")
        return REJECTED
    client.set_registered_model_alias(tracking.MODEL_NAME, CHALLENGER, version)
    client.set_model_version_tag(tracking.MODEL_NAME, version, STATUS, PENDING)
    for other in standing.versions.values():
        if other.number != version and other.status == PENDING:
            client.set_model_version_tag(tracking.MODEL_NAME, other.number, STATUS, SUPERSEDED)
    return PENDING


def _without_password(uri: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:
        return uri
