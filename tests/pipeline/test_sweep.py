"""What a sweep looks at before it starts."""

from pathlib import Path

import pytest

from pipeline import experiments, sweep
from pipeline.agenda import Agenda
from pipeline.params import load
from pipeline.plan import expand
from pipeline.store import TrialStore
from pipeline.strict import ParamsError

ROOT = Path(__file__).parent.parent.parent


def comparison(store: Path) -> Agenda:
    """All methods in the demo profile, without the stripes that make HAN fit."""
    params = load(ROOT / "params.yaml").model_copy(update={"seeds": (0, 1)})
    demo = params.profiles["demo"]
    methods = {**demo.methods, "han": {**demo.methods["han"], "model.stripes": 6}}
    profiles = {**params.profiles, "demo": demo.model_copy(update={"methods": methods})}
    data = {"synthetic": {"val": "v", "test": "t"}}
    plan = expand(params.model_copy(update={"profiles": profiles}), experiments.load(("comparison",)), data)
    return Agenda(plan, TrialStore(store))


def test_a_misfit_is_refused_before_anything_trains(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        sweep._check(comparison(tmp_path))
    (problem,) = caught.value.problems  # once, not for every seed; and the other methods fit
    assert problem.startswith("han-")
    assert "8 rows, which cannot be cut into 6 equal stripes: set model.stripes to one of 1, 2, 4, 8" in problem
