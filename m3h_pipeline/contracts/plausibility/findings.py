"""What a plausibility rule finds, and how findings become the result of a check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from m3h_pipeline.contracts.checks import CheckResult
from m3h_pipeline.wording import MIN_GROUP_SIZE

_TO_DO = {
    "units": "bring the values of each code to one unit in the extraction",
    "sentinels": "leave the field empty where there is no value",
    "outliers": "look for these values at their source",
    "code_names": "rename the code, so that its unit and range are checked",
    "availability": "give available_time if your system records when results were filed",
    "categories": "write each category in one way",
}
# A list of more findings is no longer read; the page of checks holds them all.
_SHOWN = 12


@dataclass(frozen=True)
class Finding:
    """One thing worth a steward's look.

    ``subject``: the code, column or task that it is about; ``stops``: whether the run must not go
    on; ``rows`` of ``of`` rows are affected; ``words``: what was seen, as the end of a sentence
    that begins with the subject.
    """

    table: str
    check: str
    subject: str
    stops: bool
    rows: int
    of: int
    words: str

    @property
    def share(self) -> float:
        """Share of the rows that are affected."""
        return self.rows / self.of if self.of else 0.0

    @property
    def entry(self) -> str:
        """The entry under ``accepted`` in m3h.toml that says that this is right."""
        return f"{self.table} {self.check} {self.subject}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready facts; small counts are left out."""
        facts = asdict(self)
        facts["share"] = round(self.share, 6)
        if self.rows < MIN_GROUP_SIZE:
            facts["rows"] = None
            facts["share"] = 0.0
        return facts


def format_rows(rows: int, whole: int) -> str:
    """How many of how many rows, small counts hidden.

    >>> format_rows(40, 1000), format_rows(3, 1000)
    ('40 of 1,000 values (4.00%)', 'fewer than 10 of 1,000 values')
    """
    if rows < MIN_GROUP_SIZE:
        return f"fewer than {MIN_GROUP_SIZE} of {whole:,} values"
    return f"{rows:,} of {whole:,} values ({rows / whole:.2%})"


def is_accepted(finding: Finding, entries: Iterable[str]) -> bool:
    """Whether m3h.toml says that a finding is right."""
    return any(entry.split() == finding.entry.split() for entry in entries)


def drop_accepted(findings: Sequence[Finding], entries: Sequence[str]) -> list[Finding]:
    """The findings that nobody has accepted."""
    return [finding for finding in findings if not is_accepted(finding, entries)]


def rank_findings(findings: Iterable[Finding]) -> list[Finding]:
    """What stops first, then by the share of rows."""
    return sorted(findings, key=lambda f: (not f.stops, -f.share, f.table, f.check, f.subject))


def judge_findings(
    name: str,
    severity: str,
    findings: Sequence[Finding],
    entries: Sequence[str],
    looked_at: str,
) -> CheckResult:
    """The result of one check; ``looked_at``: what it judged ("37 codes"), empty where there was
    too little.
    """
    if not looked_at:
        return CheckResult(
            name,
            True,
            severity,
            "Not judged: there is too little to judge.",
            {"note": "too few rows"},
        )
    facts: dict[str, int | float | str] = {"looked at": looked_at, "findings": len(findings)}
    left = rank_findings(drop_accepted(findings, entries))
    if len(left) < len(findings):
        facts["accepted"] = len(findings) - len(left)
    if not left:
        text = f"{looked_at} looked at, nothing found."
        if findings:
            text = f"Accepted in m3h.toml: all that was found in the {looked_at} looked at."
        return CheckResult(name, True, severity, text, facts)
    stops = any(finding.stops for finding in left)
    return CheckResult(name, False, "error" if stops else "warning", _describe(name, left), facts)


def _describe(name: str, findings: Sequence[Finding]) -> str:
    """What was found, what to do, and how to accept it."""
    shown = [finding for finding in findings if finding.stops]
    shown += [finding for finding in findings if not finding.stops][: max(_SHOWN - len(shown), 0)]
    text = " ".join(f"{finding.subject}: {finding.words}." for finding in shown)
    if len(findings) > len(shown):
        text += f" And {len(findings) - len(shown):,} more."
    entries = ", ".join(f'"{finding.entry}"' for finding in shown)
    return (
        f"{text} What to do: {_TO_DO[name]}, and run again; or, if this is right, add {entries} to "
        "accepted under [validation] in m3h.toml and run again."
    )
