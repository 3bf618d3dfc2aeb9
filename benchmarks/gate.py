"""What the gate can see: how often it rejects an equally good candidate, and how often losses pass.

Hospitals are simulated: test rows of patients with one to three stays, 40 binary tasks with
prevalences from 5 to 50%, and two models of known AUROC whose scores correlate within each class.
The candidate's loss is exact: its scores are those of the champion's kind, weaker. "Before" is
the rule that the gate had: bounds of all tasks at once, counted from -margin, and the mean's
lower bound above -margin.

    python benchmarks/gate.py --hospitals 300
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, norm

from m3h_core.metrics import calibration_error, interval, simultaneous_bounds
from m3h_core.weighted_metrics import weighted_auroc
from m3h_pipeline.config import GateConfig
from m3h_pipeline.registry.gate.calibration import compute_coverage_p_value, compute_error_p_value
from m3h_pipeline.registry.gate.comparisons import compare_with
from m3h_pipeline.registry.gate.rules import compute_mean_bounds
from m3h_pipeline.registry.gate.scoring import PairedScores

TASKS = 40
AUROC = 0.78
PREVALENCES = np.linspace(0.05, 0.5, TASKS)
FEWEST_POSITIVES = 10
STAYS = {1: 0.7, 2: 0.2, 3: 0.1}
CONFIG = GateConfig()

Losses = Callable[[np.random.Generator], np.ndarray]
SCENARIOS: dict[str, Losses] = {
    "equally good": lambda _: np.zeros(TASKS),
    "one task loses .10": lambda rng: 0.10 * np.eye(TASKS)[rng.integers(TASKS)],
    "all tasks lose .015": lambda _: np.full(TASKS, 0.015),
    "all tasks lose .005": lambda _: np.full(TASKS, 0.005),
}


@dataclass(frozen=True)
class Simulated:
    """Patients [n] of a test split, and how much of what varies is shared by the stays of one."""

    patients: np.ndarray
    rng: np.random.Generator

    @classmethod
    def of(cls, rows: int, rng: np.random.Generator) -> Simulated:
        stays = rng.choice(list(STAYS), size=rows, p=list(STAYS.values()))
        return cls(np.repeat(np.arange(rows), stays)[:rows], rng)

    def noise(self, shared: float) -> np.ndarray:
        """Standard normal values [n], with a part that is the same in all stays of a patient."""
        of_patient = self.rng.normal(size=self.patients.max() + 1)[self.patients]
        own = self.rng.normal(size=len(self.patients))
        return np.sqrt(shared) * of_patient + np.sqrt(1 - shared) * own

    def labels(self, prevalence: float) -> np.ndarray:
        """Labels bool [n] of a task that has enough positives to be claimed."""
        while True:
            positive = self.noise(0.5) < norm.ppf(prevalence)
            if positive.sum() >= FEWEST_POSITIVES:
                return positive

    def resamples(self, count: int) -> np.ndarray:
        """How often each row is drawn [R, n] where patients are."""
        size = self.patients.max() + 1
        drawn = self.rng.multinomial(size, np.full(size, 1 / size), size=count)
        return drawn[:, self.patients].astype(np.float32)


def simulate_pairs(
    seed: int,
    losses: Losses,
    rows: int,
    correlation: float,
    resamples: int,
) -> PairedScores:
    """A candidate and its champion on one hospital's test split."""
    rng = np.random.default_rng(seed)
    hospital = Simulated.of(rows, rng)
    weights = hospital.resamples(resamples)
    once = np.ones((1, rows))
    frailty = hospital.noise(1.0)
    loss = losses(rng)
    apart = np.sqrt(2) * norm.ppf(AUROC)
    tasks = []
    differences = []
    for at, prevalence in enumerate(PREVALENCES):
        positive = hospital.labels(prevalence)
        common = np.sqrt(0.2) * frailty + np.sqrt(0.8) * hospital.noise(0.5)
        shared = apart * positive + np.sqrt(correlation) * common
        champion = shared + np.sqrt(1 - correlation) * hospital.noise(0.3)
        kept = np.sqrt(2) * norm.ppf(AUROC - loss[at]) / apart
        candidate = kept * (shared + np.sqrt(1 - correlation) * hospital.noise(0.3))
        candidate += np.sqrt(1 - kept**2) * hospital.noise(0.3)
        values = [weighted_auroc(positive, score, once)[0] for score in (candidate, champion)]
        candidate_score, champion_score = (
            weighted_auroc(positive, score, weights) for score in (candidate, champion)
        )
        tasks.append((f"t{at}", "AUROC", float(values[0]), float(values[1])))
        differences.append(candidate_score - champion_score)
    return PairedScores(tasks, np.stack(differences, axis=1))


def passed_before(pairs: PairedScores) -> bool:
    """The rule that the gate had."""
    values = pairs.differences
    _, highs = simultaneous_bounds(values, pairs.replicates, CONFIG.level)
    low, _ = compute_mean_bounds(values, pairs.replicates, CONFIG.level)
    return bool((highs >= -CONFIG.margin).all() and low >= -CONFIG.margin)


def passes_now(pairs: PairedScores) -> bool:
    """The gate's rule against the champion and the anchor."""
    return compare_with("champion", CONFIG, pairs, "it", must_be_shown=True)[0].passed


def compare_rules(hospitals: int, rows: int, correlation: float, resamples: int) -> None:
    """Print how often each scenario passes, before and now."""
    print(f"\n{rows} test rows, {TASKS} tasks, correlation {correlation}: passes before, now")
    for name, losses in SCENARIOS.items():
        before = 0
        now = 0
        for seed in range(hospitals):
            pairs = simulate_pairs(seed, losses, rows, correlation, resamples)
            before += passed_before(pairs)
            now += passes_now(pairs)
        print(f"  {name:<22} {before / hospitals:6.1%} {now / hospitals:6.1%}", flush=True)


def count_useless(hospitals: int, rows: int, resamples: int) -> None:
    """Print how often a task that is exactly as good as trivial has an interval wholly below it."""
    below = 0
    for seed in range(hospitals):
        hospital = Simulated.of(rows, np.random.default_rng(seed))
        weights = hospital.resamples(resamples)
        for prevalence in PREVALENCES:
            positive = hospital.labels(prevalence)
            replicates = weighted_auroc(positive, hospital.noise(0.3), weights)
            below += interval(replicates)[1] < 0.5
    share = below / hospitals / TASKS
    print(f"\nuseless tasks whose own interval lies below trivial: {share:.2%} each")
    for useless in (1, 2, 5, 10):
        rejected = 1 - (1 - share) ** useless
        print(f"  a candidate with {useless:>2} of them is rejected {rejected:6.1%}")


def judge_calibration(draws: int) -> None:
    """Print how often what is off by just the allowed error is rejected, one task of 40."""
    rng = np.random.default_rng(0)
    level = CONFIG.level / TASKS
    allowed = CONFIG.calibration_error
    print(f"\ncalibration: off by just {allowed}, rejected (level {level:.3%})")
    for rows in (37, 100, 213):
        for prevalence in (0.1, 0.5):
            wrong = 0
            for _ in range(draws):
                logits = rng.normal(norm.ppf(prevalence) * 1.7, 1.2, rows)
                probability = 1 / (1 + np.exp(-logits))
                towards_half = np.where(probability < 0.5, allowed, -allowed)
                happened = rng.random(rows) < probability + towards_half
                error = calibration_error(happened, probability)
                chance = compute_error_p_value(probability, error, allowed, np.arange(rows), rng)
                wrong += chance < level
            about = f"{rows:>3} labels, prevalence {prevalence:.0%}"
            print(f"  probabilities, {about}: {wrong / draws:.2%}")
    for rows in (37, 100, 213):
        rank = int(np.ceil((rows + 1) * 0.9 - 1e-9))
        coverage = rng.beta(rank, rows + 1 - rank, 20_000) - allowed
        covered = rng.binomial(rows, np.clip(coverage, 0, 1))
        before = (binom.cdf(covered, rows, 0.9 - allowed) < level).mean()
        chances = {
            count: compute_coverage_p_value(
                np.arange(rows) < count, 0.9 - allowed, rows, np.arange(rows)
            )
            for count in np.unique(covered)
        }
        now = np.mean([chances[count] < level for count in covered])
        print(f"  intervals, {rows:>3} labels in either split: {before:.2%} before, {now:.2%} now")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--hospitals", type=int, default=300, help="simulated hospitals a scenario")
    parser.add_argument("--rows", type=int, nargs="+", default=[213], help="test rows")
    parser.add_argument("--correlations", type=float, nargs="+", default=[0.95, 0.85])
    parser.add_argument("--resamples", type=int, default=500)
    chosen = parser.parse_args()
    for rows in chosen.rows:
        for correlation in chosen.correlations:
            compare_rules(chosen.hospitals, rows, correlation, chosen.resamples)
    count_useless(max(1, chosen.hospitals // 10), chosen.rows[0], chosen.resamples)
    judge_calibration(chosen.hospitals)


if __name__ == "__main__":
    main()
