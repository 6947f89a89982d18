"""Times and sizes as people say them."""


def duration(seconds: float) -> str:
    """`45 s`, `3 min 05 s`, `2 h 10 min`, `125 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 100 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole / 3600:,.0f} h"


def size(number: float) -> str:
    """Bytes: `0 kB`, `12 kB`, `3.4 MB`, `1.2 GB`."""
    if number < 1e6:
        return f"{number / 1e3:.0f} kB"
    return f"{number / 1e6:.1f} MB" if number < 1e9 else f"{number / 1e9:.1f} GB"


def counted(number: int, thing: str) -> str:
    """`1 trial`, `2,000 trials`."""
    return f"{number:,} {thing}" + "s" * (number != 1)
