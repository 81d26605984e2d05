from __future__ import annotations

from dataclasses import asdict

from orchestrator.cli.options import AsJson, ClusterOfRun, RunId, print_json, say


def why(run: RunId, cluster: ClusterOfRun = None, json: AsJson = False) -> None:
    """Show where a run's time went, what held it up most, which field to change, and what that would gain."""
    from orchestrator import progress, sdk
    from orchestrator.advice import Planned, advice_of

    handle = sdk.attach(run, cluster)
    ledger = handle.ledger()
    advice = advice_of(ledger, Planned.of(handle.cluster.plan(handle.id)))
    if json:
        print_json(
            {
                **ledger.model_dump(mode="json"),
                "wall": ledger.wall,
                "effective": ledger.effective,
                "advice": asdict(advice),
            }
        )
        return
    say(f"{'wall time':<48} {progress.duration(ledger.wall)}")
    for part, seconds in sorted(ledger.seconds.items(), key=lambda item: -item[1]):
        say(f"  {part:<46} {seconds:9.1f} s {seconds / ledger.wall:6.1%}")
    say(f"{'effective training time':<48} {ledger.effective:.1%}, {ledger.steps:,} steps")
    if ledger.shrunken:
        say(f"{'of step, missing since the group was smaller':<48} {ledger.shrunken:.1f} s")
    if ledger.spares:
        say(f"{'beside the parts: spare workers that were held':<48} {ledger.spares:.1f} s")
    if ledger.communication:
        told = f"{ledger.communication:9.1f} s {ledger.communication / ledger.wall:6.1%}"
        say(f"{'of the steps, an estimate: communication':<48} {told}")
    say(f"{advice.bound}-bound: {advice.sentence}")
    say(f"change {advice.change}")
    if advice.gain:
        say(f"which should save {advice.gain:.0f} s, {advice.gain / ledger.of_launches:.0%} of the time")
