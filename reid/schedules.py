"""The learning-rate schedules of the five papers (methods.md 1.3), one value per epoch."""

from collections.abc import Callable

from reid.config import Schedule


def learning_rate(schedule: Schedule, epoch: int) -> float:
    """The learning rate of an epoch.

    Args:
        schedule: which published curve, its peak and its scale in time.
        epoch: counted from 1, at most `schedule.epochs`.

    Returns:
        The rate that every parameter uses throughout that epoch.
    """
    published_peak, shape = _SHAPES[schedule.name]
    # The published epoch this one stands for; rounded, so that 15 / 0.05 is 300 and not a hair below.
    time = (
        round((epoch - 1) / schedule.time_scale, 9) if schedule.name != "S1" else round(epoch / schedule.time_scale, 9)
    )
    return shape(time) * schedule.peak_lr / published_peak


def _s1(epoch: float) -> float:
    """BDB's released code, also SaADB and SONA-Net; epochs from 1: steps of 1e-4 to 1e-3, down at 200 and 300."""
    if epoch < 50:
        return 1e-4 * (epoch // 5 + 1)
    return 1e-3 if epoch < 200 else 1e-4 if epoch < 300 else 1e-5


def _s2(epoch: float) -> float:
    """HAN's code; epochs from 0: linear from 3e-4 to 1e-2 over 10 epochs, halved at 60, 90 and 120."""
    if epoch < 10:
        return 3e-4 + (1e-2 - 3e-4) * epoch / 10
    return float(1e-2 * 0.5 ** sum(epoch >= milestone for milestone in (60, 90, 120)))


def _s2_flat(epoch: float) -> float:
    """S2 without its warm-up, which is one of the tricks that HAN's baseline does not have."""
    return _s2(max(epoch, 10))


def _s2_eq6(epoch: float) -> float:
    """S2 with the warm-up of HAN's equation 6 to the letter: it ends at 3e-4, and the rate jumps to 1e-2."""
    return 3e-4 * (epoch + 1) / 10 if epoch < 10 else _s2(epoch)


def _s3(epoch: float) -> float:
    """ES-Net on persons and Bag of Tricks; epochs from 0: 10 of warm-up, divided by 10 at 40 and 70."""
    return _warm_up(epoch, milestones=(40, 70))


def _s4(epoch: float) -> float:
    """ES-Net on vehicles; epochs from 0: 10 of warm-up, divided by 10 at 20 and 40."""
    return _warm_up(epoch, milestones=(20, 40))


def _warm_up(epoch: float, *, milestones: tuple[int, ...]) -> float:
    if epoch < 10:
        return 3.5e-4 * min(epoch + 1, 10) / 10
    return float(3.5e-4 * 0.1 ** sum(epoch >= milestone for milestone in milestones))


_SHAPES: dict[str, tuple[float, Callable[[float], float]]] = {
    "S1": (1e-3, _s1),
    "S2": (1e-2, _s2),
    "S2_flat": (1e-2, _s2_flat),
    "S2_eq6": (1e-2, _s2_eq6),
    "S3": (3.5e-4, _s3),
    "S4": (3.5e-4, _s4),
}
