"""What a schedule of faults has come to, as a document and as lines for a person."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.chaos.schedule import Fault
from orchestrator.section import AnyFloat, Section


class FaultReport(Section):
    """One fault."""

    fault: Fault
    """What was due."""
    hit: bool
    """Whether the run came to its place."""
    attempt: int = 0
    """The attempt that it hit."""
    step: int = 0
    """The step that it hit."""
    rank: int = 0
    """The worker that it hit: where there are fewer by then, another one than was drawn."""
    restarts: int = 0
    """Attempts that began because of it."""
    replayed: int = 0
    """Steps that were taken again, since no checkpoint had them."""
    seconds: float | None = None
    """From the fault to the next step that no attempt had taken."""
    blamed: tuple[int, ...] = ()
    """Workers that were named as those that hang."""

    @property
    def line(self) -> str:
        """For a person."""
        if not self.hit:
            return f"fault {self.fault.number}: {self.fault.sentence}: the run ended before it was due"
        again = f"{self.restarts} restarts, {self.replayed} steps taken again"
        went_on = (
            f"went on after {self.seconds:.1f} s" if self.seconds is not None else "no new step came after it"
        )
        return f"fault {self.fault.number}: {self.fault.sentence}: {went_on}, {again}"


class RunReport(Section):
    """One run under its faults, beside the one that nothing happened to."""

    run: int
    """From 1 on."""
    run_id: str
    """Its id."""
    faults: tuple[FaultReport, ...]
    """What happened to it."""
    state: str
    """How it ended."""
    step: int
    """Its last step."""
    launches: int
    """1, and one more for each resume."""
    attempts: int
    """Starts of the workers."""
    seconds: float
    """From its submission to its end."""
    samples: int
    """That count in its final state."""
    samples_doubled: int
    samples_missed: int
    points: int
    """Metric points."""
    points_lost: int
    points_doubled: int
    points_other: int
    """With another value."""
    unequal_elements: AnyFloat | None
    """Of the final state, bit for bit, beside the other run's; None where there is none."""
    distance: AnyFloat | None
    """Of all parameters, relative."""
    left_behind: tuple[str, ...]
    """Processes and folders of Ray that were still there."""
    drafts: tuple[str, ...] = ()
    """Hidden files that a process was writing as it was killed: nothing reads them, and they go with the run."""
    broken: tuple[str, ...]
    """What did not hold, a sentence each."""

    @property
    def line(self) -> str:
        """For a person."""
        word = "FAIL" if self.broken else "pass"
        return (
            f"{word}  run {self.run}: {self.state} at step {self.step} after {self.seconds:.0f} s; samples"
            f" {self.samples_doubled} doubled, {self.samples_missed} missed of {self.samples:,}; points"
            f" {self.points_lost} lost, {self.points_doubled} doubled, {self.points_other} other of {self.points:,};"
            f" {self.state_line}; {len(self.left_behind)} left behind"
        )

    @property
    def state_line(self) -> str:
        """How far its final state is from the other's."""
        if self.unequal_elements is None:
            return "no final state"
        if self.unequal_elements == 0:
            return "state equal, bit for bit"
        return f"{self.unequal_elements:,.0f} elements of the state differ, parameters by {self.distance:.1e}"


class Report(Section):
    """All runs."""

    job: str
    """The job file."""
    seed: int
    faults: tuple[str, ...]
    """Kinds that were drawn from."""
    count: int
    per_run: int
    changed: tuple[str, ...]
    """What was set on top of the job file."""
    said_before: tuple[str, ...]
    """What the job can't promise, and what follows from it."""
    undisturbed_seconds: float
    """Of the run that nothing happened to."""
    runs: tuple[RunReport, ...]

    @property
    def broken(self) -> Sequence[RunReport]:
        """Runs in which something did not hold."""
        return [run for run in self.runs if run.broken]

    @property
    def sums(self) -> dict[str, float]:
        """Over all runs."""
        faults = [fault for run in self.runs for fault in run.faults if fault.hit]
        seconds = sorted(fault.seconds for fault in faults if fault.seconds is not None)
        return {
            "runs": len(self.runs),
            "faults": len(faults),
            "samples": sum(run.samples for run in self.runs),
            "samples_doubled": sum(run.samples_doubled for run in self.runs),
            "samples_missed": sum(run.samples_missed for run in self.runs),
            "steps_replayed": sum(fault.replayed for fault in faults),
            "points": sum(run.points for run in self.runs),
            "points_lost": sum(run.points_lost for run in self.runs),
            "points_doubled": sum(run.points_doubled for run in self.runs),
            "points_other": sum(run.points_other for run in self.runs),
            "states_unequal": sum(run.unequal_elements != 0 for run in self.runs),
            "left_behind": sum(len(run.left_behind) for run in self.runs),
            "median_seconds": seconds[len(seconds) // 2] if seconds else 0.0,
            "longest_seconds": seconds[-1] if seconds else 0.0,
        }

    @property
    def table(self) -> list[str]:
        """By kind of fault, as lines for a person."""
        lines = [
            f"{'fault':<8} {'hit':>4} {'restarts':>9} {'steps again':>12} {'median s':>9} {'longest s':>10}"
        ]
        for kind in self.faults:
            of_kind = [f for run in self.runs for f in run.faults if f.hit and f.fault.kind == kind]
            seconds = sorted(fault.seconds for fault in of_kind if fault.seconds is not None)
            middle, most = (seconds[len(seconds) // 2], seconds[-1]) if seconds else (0.0, 0.0)
            restarts, again = sum(f.restarts for f in of_kind), sum(f.replayed for f in of_kind)
            lines.append(
                f"{kind:<8} {len(of_kind):>4} {restarts:>9} {again:>12} {middle:>9.1f} {most:>10.1f}"
            )
        return lines

    @property
    def summary(self) -> str:
        """One sentence."""
        sums = self.sums
        return (
            f"{sums['faults']} faults in {sums['runs']} runs: samples {sums['samples_doubled']} doubled and"
            f" {sums['samples_missed']} missed of {sums['samples']:,}; points {sums['points_lost']} lost,"
            f" {sums['points_doubled']} doubled and {sums['points_other']} other of {sums['points']:,}; {sums['states_unequal']}"
            f" final states unequal; {sums['left_behind']} things left behind"
        )
