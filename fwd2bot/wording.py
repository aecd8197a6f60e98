"""Times and counts as a person reads them."""


def duration(seconds: float) -> str:
    """In the two largest units that matter."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def plural(count: int, what: str) -> str:
    """1 image, 2 images."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
