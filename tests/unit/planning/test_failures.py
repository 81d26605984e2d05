"""What failures are expected to cost a run."""

import math
import random

import pytest

from orchestrator.errors import SpecError
from orchestrator.planning.failures import (
    Costs,
    Failures,
    best_every_steps,
    duration,
    expected,
    expected_on_notice,
    failures_of,
    forecast,
)

COSTS = Costs(step=0.8, beside=0.2, save=10.0, restart=60.0, start=100.0, known_from="")


def test_without_faults_it_is_work_saves_and_the_start():
    found = expected(Failures(1e12), COSTS, 10_000, 100)
    assert found.wall == pytest.approx(100 + 10_000 + 100 * 10, rel=1e-6)
    assert found.effective == pytest.approx(8000 / 11_100, rel=1e-6)
    assert found.faults == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("mtbf", [600.0, 7200.0])
@pytest.mark.parametrize("every", [30, 300])
def test_it_is_what_runs_under_random_faults_take(mtbf, every):
    costs, steps, generator = COSTS, 3000, random.Random(7)
    walls = []
    for _ in range(300):
        now, saved, fault = 0.0, 0, generator.expovariate(1 / mtbf)
        while saved < steps:
            end = now + every * (costs.step + costs.beside) + costs.save
            if fault > end:
                now, saved = end, saved + every
                continue
            now = fault
            while True:
                fault = now + generator.expovariate(1 / mtbf)
                if fault > now + costs.restart:
                    now += costs.restart
                    break
                now = fault
        walls.append(now)
    mean = sum(walls) / len(walls)
    error = 3 * math.sqrt(sum((wall - mean) ** 2 for wall in walls)) / len(walls)
    assert abs(expected(Failures(mtbf), costs, steps, every).wall - costs.start - mean) < error


@pytest.mark.parametrize("mtbf", [300.0, 3600.0, 1e6])
def test_the_best_cadence_is_the_least_wall_of_all(mtbf):
    best = best_every_steps(Failures(mtbf), COSTS, 5000)
    walls = {every: expected(Failures(mtbf), COSTS, 5000, every).wall for every in range(1, 5001)}
    assert walls[best] == pytest.approx(min(walls.values()), rel=1e-9)
    if mtbf == 3600.0:
        assert best == pytest.approx(math.sqrt(2 * 10 * 3600), rel=0.05), "Young's"


def test_notice_loses_no_step_and_a_spare_waits_for_nothing():
    failures = Failures(3600.0, repair=600.0)
    without = expected(failures, COSTS, 10_000, 500)
    assert expected_on_notice(failures, COSTS, 10_000, 500).effective > without.effective
    found = forecast(failures, COSTS, 10_000, 500)
    assert found.planned == without and found.with_spares.effective > without.effective
    assert found.best.effective > without.effective
    assert [name for name, _ in found.lines()] == [
        "failures",
        "costs",
        "expected",
        "best",
        "notice",
        "spares",
    ]
    never = expected(Failures(1.0), COSTS, 10_000, 5000)
    assert never.wall == math.inf and never.effective == 0.0
    assert "no end to be expected" in str(forecast(Failures(1.0), COSTS, 10_000, 5000).lines())


def test_what_a_person_writes():
    assert failures_of("mtbf=6h", 8) == Failures(21600.0, 0.0, "one every 6h", {})
    assert failures_of("mtbf=6h,step=0.5s,save=2,restart=90s", 8).own == {
        "step": 0.5,
        "save": 2.0,
        "restart": 90.0,
    }
    found = failures_of("mtbf_node=30d, nodes=4, repair=10m", 8)
    assert (found.mtbf, found.repair) == (30 * 86400 / 4, 600.0)
    assert found.told == "one every 7d 12h: 4 nodes, each one every 30d"
    assert failures_of("mtbf_node=8d", 8).mtbf == 86400.0
    assert [duration(seconds) for seconds in (0.25, 95, 3661)] == ["0.25s", "1min 35s", "1h 1min"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is none of mtbf, mtbf_node, nodes, repair"),
        ("6h", "'6h' is none of"),
        ("often=6h", "'often=6h' is none of"),
        ("mtbf=6h,mtbf=7h", "'mtbf=7h' is none of"),
        ("repair=1m", "give mtbf=6h (of the whole run) or mtbf_node=30d"),
        ("mtbf=6h,mtbf_node=30d", "give mtbf=6h (of the whole run) or mtbf_node=30d"),
        ("mtbf=6h,nodes=4", "nodes goes with mtbf_node"),
        ("mtbf=6 parsecs", "mtbf: '6 parsecs' is not a duration"),
        ("mtbf=0", "mtbf: no time is between two faults"),
        ("mtbf_node=30d,nodes=0", "nodes: '0' is no number of nodes"),
        ("mtbf_node=30d,nodes=many", "nodes: 'many' is no number of nodes"),
        ("mtbf=6h,step=0", "step: a step takes time"),
        ("mtbf=6h,repair=-1", "repair: '-1' is not a duration"),
    ],
)
def test_what_is_written_otherwise_is_refused_in_one_sentence(text, said):
    with pytest.raises(SpecError) as refused:
        failures_of(text, 8)
    assert said in str(refused.value) and "\n" not in str(refused.value)
