"""The schedules at every epoch the papers print or imply (methods.md 1.3 and 12.9)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid.config import Schedule
from reid.schedules import learning_rate

PUBLISHED = {
    "S1": (400, 1e-3),
    "S2": (150, 1e-2),
    "S2_flat": (150, 1e-2),
    "S2_eq6": (150, 1e-2),
    "S3": (120, 3.5e-4),
    "S4": (60, 3.5e-4),
}


def published(name: str, epoch: int) -> float:
    epochs, peak = PUBLISHED[name]
    return learning_rate(Schedule(name=name, epochs=epochs, peak_lr=peak), epoch)


@pytest.mark.parametrize(
    ("name", "epochs", "rate"),
    [
        ("S1", range(1, 5), 1e-4),
        ("S1", range(5, 10), 2e-4),
        ("S1", range(45, 200), 1e-3),
        ("S1", range(200, 300), 1e-4),
        ("S1", range(300, 401), 1e-5),
        ("S2", range(1, 2), 3e-4),
        ("S2", range(2, 3), 1.27e-3),
        ("S2", range(11, 61), 1e-2),
        ("S2", range(61, 91), 5e-3),
        ("S2", range(91, 121), 2.5e-3),
        ("S2", range(121, 151), 1.25e-3),
        ("S2_flat", range(1, 61), 1e-2),
        ("S2_flat", range(61, 91), 5e-3),
        ("S2_eq6", range(1, 2), 3e-5),
        ("S2_eq6", range(10, 11), 3e-4),
        ("S2_eq6", range(11, 61), 1e-2),
        ("S2_eq6", range(121, 151), 1.25e-3),
        ("S3", range(1, 2), 3.5e-5),
        ("S3", range(10, 41), 3.5e-4),
        ("S3", range(41, 71), 3.5e-5),
        ("S3", range(71, 121), 3.5e-6),
        ("S4", range(10, 21), 3.5e-4),
        ("S4", range(21, 41), 3.5e-5),
        ("S4", range(41, 61), 3.5e-6),
    ],
)
def test_published_values(name: str, epochs: range, rate: float) -> None:
    assert [published(name, epoch) for epoch in epochs] == pytest.approx([rate] * len(epochs))


@given(
    name=st.sampled_from(sorted(PUBLISHED)), epoch=st.integers(1, 40), factor=st.sampled_from([0.05, 0.1, 0.25, 0.5])
)
def test_scaling_time_and_peak_moves_the_same_curve(name: str, epoch: int, factor: float) -> None:
    _, peak = PUBLISHED[name]
    squeezed = learning_rate(Schedule(name=name, epochs=40, peak_lr=2 * peak, time_scale=factor), epoch)
    original = epoch / factor if name == "S1" else (epoch - 1) / factor + 1
    assert squeezed == pytest.approx(2 * published(name, round(original)))


def test_a_squeezed_milestone_is_not_missed_by_rounding() -> None:
    demo = Schedule(name="S1", epochs=20, time_scale=0.05)
    assert learning_rate(demo, 14) == pytest.approx(1e-4)
    assert learning_rate(demo, 15) == pytest.approx(1e-5)
