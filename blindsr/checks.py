"""Checks of settings, with errors for the person who typed them."""

__all__ = ["require_positive"]


def require_positive(settings: object, *names: str) -> None:
    """Raise ValueError, naming the option, unless each attribute ``names`` of ``settings`` is above 0."""
    for name in names:
        value = getattr(settings, name)
        if not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be above 0")
