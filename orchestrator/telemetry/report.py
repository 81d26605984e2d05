"""The report of a run: one HTML page with its end, its curves and where its time went."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from orchestrator.ledger import Ledger
from orchestrator.planning.plan import Plan
from orchestrator.telemetry.ledger_view import ledger_rows
from orchestrator.telemetry.spool import Spool

REPORT = "report.html"
_CURVES = ("train/loss", "val/")
_MOST_POINTS = 400
_WIDTH, _HEIGHT, _MARGIN = 520, 180, 8
_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;max-width:72rem;color:#1f2937}}h1{{font-size:1.3rem}}
h2{{font-size:1rem;margin:1.6rem 0 .4rem}}td{{padding:.1rem 1.2rem .1rem 0;vertical-align:top}}td+td{{font-variant-numeric:
tabular-nums}}figure{{display:inline-block;margin:0 1.2rem 1rem 0}}figcaption{{font-size:.85rem;color:#6b7280}}
svg{{background:#f6f7f9;border-radius:6px}}</style><h1>{title}</h1>{body}
"""

Points = Sequence[tuple[int, float]]


class Curve:
    """A metric's points by step, thinned where there are many: every second, fourth, ... and always the last."""

    def __init__(self) -> None:
        self._stride, self._seen, self._kept = 1, 0, dict[int, float]()
        self._last: tuple[int, float] | None = None

    def add(self, step: int, value: float) -> None:
        """The next point."""
        self._last = step, value
        if self._seen % self._stride == 0:
            self._kept[step] = value
        self._seen += 1
        if len(self._kept) > _MOST_POINTS:
            self._kept = dict(list(self._kept.items())[::2])
            self._stride *= 2

    def points(self) -> Points:
        """By step; of a step that was logged again the newest."""
        return sorted({**self._kept, **dict([self._last] if self._last else [])}.items())


def report_page(plan: Plan, spool: Spool, status: str, ledger: Ledger | None) -> bytes:
    """The page, as UTF-8.

    Args:
        plan: of the run.
        spool: with all of its points.
        status: how it ended, in MLflow's word.
        ledger: where its time went; None where nobody knows.

    """
    curves = _read(spool)
    job = plan.job
    facts = {
        "end": status.lower(),
        "model": f"{job.model.family}, {plan.parameters:,} parameters",
        "objective": job.objective.kind,
        "strategy": f"{job.strategy.kind} on {plan.world_size} worker{'s' if plan.world_size > 1 else ''} ({plan.cluster})",
        "steps": f"{plan.total_steps:,} of {job.training.global_batch_size:,} samples",
    }
    newest = _newest(curves)
    drawn = "".join(_figure(name, curve.points()) for name, curve in sorted(curves.items()))
    body = _table(facts)
    body += f"<h2>Metrics</h2>{_table(newest)}<h2>Curves</h2>{drawn}" if curves else ""
    body += f"<h2>Where the time went</h2>{_table(ledger_rows(ledger))}" if ledger else ""
    return _PAGE.format(title=html.escape(f"{job.name}: {plan.run_id}"), body=body).encode()


def newest_values(spool: Spool) -> dict[str, str]:
    """The newest training loss and evaluation metrics by name, as they are shown."""
    return _newest(_read(spool))


def _newest(curves: Mapping[str, Curve]) -> dict[str, str]:
    return {name: f"{curve.points()[-1][1]:.6g}" for name, curve in sorted(curves.items())}


def _read(spool: Spool) -> dict[str, Curve]:
    """Curves by name."""
    curves: dict[str, Curve] = {}
    for part in spool.parts():
        for record in spool.records(part):
            for name, value in record.content.get("values", {}).items():
                if name.startswith(_CURVES) and math.isfinite(value):
                    curves.setdefault(name, Curve()).add(record.content["step"], value)
    return curves


def _figure(name: str, points: Points) -> str:
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), max(values)
    across, up = (steps[-1] - steps[0]) or 1, (high - low) or 1.0

    def place(step: int, value: float) -> tuple[float, float]:
        x = _MARGIN + (step - steps[0]) / across * (_WIDTH - 2 * _MARGIN)
        return x, _HEIGHT - _MARGIN - (value - low) / up * (_HEIGHT - 2 * _MARGIN)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(step, value) for step, value in points))
    x, y = place(*points[-1])
    return (
        f'<figure><svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{html.escape(name)}">'
        f'<polyline fill="none" stroke="#1f77b4" stroke-width="2" points="{line}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#1f77b4"/></svg>'
        f"<figcaption>{html.escape(name)}: {low:.4g} to {high:.4g}, steps {steps[0]:,} to {steps[-1]:,}</figcaption>"
        "</figure>"
    )


def _table(rows: Mapping[str, str]) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>" for name, text in rows.items()
    )
    return f"<table>{cells}</table>"
