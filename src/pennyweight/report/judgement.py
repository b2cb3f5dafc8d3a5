"""Holding a difference against a margin that was fixed before the run: the verdict of a claim box."""

from pennyweight.report.record import ArmReport, ClaimBox, ClaimVerdict
from pennyweight.report.units import points_interval_text, points_text


def judge(difference: float, low: float | None, margin: float) -> ClaimVerdict:
    """The verdict on "loses at most `margin`".

    Args:
        difference: candidate minus reference.
        low: lower end of its interval; None where there is none, which proves nothing.
        margin: in the same unit, at least 0.

    Returns:
        "holds" where the whole interval lies above -margin, "partly" where only the difference does, else "not".
    """
    if low is not None and low > -margin:
        return "holds"
    return "partly" if difference > -margin else "not"


def claim_box(
    claim: str, paper: str, setting: str, arm: ArmReport | None, *, margin_points: float, command: str
) -> ClaimBox:
    """The box of a claim "this arm loses at most so many points of accuracy against the baseline".

    Args:
        arm: as measured; None where it was not.
    """
    points = "point" if margin_points == 1 else "points"
    limit = f"at most {margin_points:g} {points} of accuracy lost, fixed beforehand"
    setting = f"{setting}; {limit}" if setting else limit
    if arm is None or arm.comparison is None or arm.accuracy is None:
        measured = "no accuracy of both arms on the same samples"
        return ClaimBox(
            claim=claim, paper=paper, setting=setting, measured=measured, verdict="not run", command=command
        )
    change, low, high = arm.comparison.change()
    interval = points_interval_text(low, high)
    seeds = len(arm.accuracy.seeds)
    return ClaimBox(
        claim=claim,
        paper=paper,
        setting=setting,
        measured=f"{arm.name} against {arm.comparison.reference}: {points_text(change)} points {interval}".strip(),
        verdict=judge(change, low, margin_points / 100),
        command=command,
        n=f"{arm.comparison.n:,} answers, {seeds} {'seed' if seeds == 1 else 'seeds'}",
    )
