"""What was delivered by each step's end, worked out ahead, is what the plan says, wherever a run goes next."""

from data.mixture.plan import Plan
from data.mixture.schedule import WEIGHT_UNIT, Schedule, ScheduleAnchor
from train.delivered import AHEAD, Delivered


def test_delivered_is_the_plans() -> None:
    halves = (WEIGHT_UNIT // 2, WEIGHT_UNIT // 2)
    schedule = Schedule(("code", "web"), (ScheduleAnchor(0, (WEIGHT_UNIT, 0)), ScheduleAnchor(500, halves)))
    plan = Plan(schedule, {"code": [300], "web": [200]}, seed=1)
    delivered = Delivered(plan, batch=7)
    steps = [*range(1, 2 * AHEAD), 3, 4, 200]  # it goes back, and on
    for sample in (7 * step + 2 for step in steps):
        assert delivered.at(sample).tolist() == plan.delivered(sample).tolist()
