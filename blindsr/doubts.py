"""What speaks against a result, with its cause and what can be done about it, a line each."""

from blindsr.estimation import Estimate, Limits

__all__ = ["doubts", "is_beyond_kernels", "is_left_alone"]

NOISY = 15.0
"""Grey levels of noise from which on little detail comes back."""
KNOWN = "a kernel that you know can be given (NonblindSR/main.py --kernel, in Python kernel=)"
INSTEAD = f"enlarged by bicubic instead; {KNOWN}"
LEFT = f"left as it is; {KNOWN}"
COMPARE = f"compare with a sharper or larger part; {KNOWN}"
BEYOND = 0.05
"""Share of a picture with more blur than the kernels have from which on that is said."""
COMPRESSED = 60
"""JPEG quality below which its blocks hide the blur."""


def doubts(
    estimate: Estimate,
    photograph: bool,
    sigma: float | None = None,
    jpeg_quality: int | None = None,
    *,
    own_size: bool = False,
) -> tuple[str, ...]:
    """Doubts of a result, from where on the estimate's ``limits`` say.

    Args:
        sigma: noise level in grey levels that was read off the image, where the estimator did not; one that the user
            told is none.
        jpeg_quality: of the file that the image came in, where it is one.
        own_size: whether the image keeps its size (x1).
    """
    if not photograph:
        if not _is_uncertain(estimate):
            return ()
        return (f"uncertain: too little of the blur shows ({_variances(estimate)}); {COMPARE}",)
    if _is_sharp(estimate):
        return ("sharp: no blur is seen that could be undone; left as it is",)
    found, noise = [], _noise(estimate, sigma)
    if noise >= NOISY:
        found.append(f"noise: {noise:.0f} grey levels, little detail comes back; --sigma sets more or less smoothing")
    if jpeg_quality is not None and jpeg_quality < COMPRESSED:
        found.append(f"compression: JPEG of quality {jpeg_quality} hides the blur; take the camera's own file")
    if estimate.limits is not None and _is_uncertain(estimate):
        if not found and noise >= estimate.limits.noisy:
            error = _error(estimate)
            found.append(
                f"noise hides the blur: {error}; take a part with strong edges, or a picture with less noise"
            )
        else:
            found.append(_cause(estimate, estimate.limits, bool(found), own_size))
    if is_beyond_kernels(estimate, photograph, sigma, jpeg_quality):
        return tuple(found)  # nothing is undone anywhere
    field = estimate.kernel_field
    if field is not None and field.beyond > BEYOND:
        found.append(f"out of focus in part: {field.beyond:.0%} of the picture is blurred more than can be undone")
    return tuple(found)


def is_beyond_kernels(
    estimate: Estimate, photograph: bool, sigma: float | None = None, jpeg_quality: int | None = None
) -> bool:
    """Whether a photograph's blur is none of the Gaussian kernels: motion, or far out of focus. Arguments as above.

    Undoing the nearest Gaussian does harm then: of lines of 11 and discs of 4 HR pixels it left 0.2 to 4.1 dB less
    than bicubic enlargement.
    """
    limits = estimate.limits
    if not photograph or limits is None or estimate.spread is None:
        return False
    damaged = _noise(estimate, sigma) >= limits.noisy or (jpeg_quality or 100) < COMPRESSED
    return not damaged and _is_uncertain(estimate) and estimate.spread[0] > limits.wide


def is_left_alone(
    estimate: Estimate, photograph: bool, sigma: float | None = None, jpeg_quality: int | None = None
) -> bool:
    """Whether a photograph is only enlarged, which at its own size changes nothing: it is sharp, or its blur cannot
    be undone (:func:`is_beyond_kernels`). Arguments as above."""
    return photograph and (_is_sharp(estimate) or is_beyond_kernels(estimate, photograph, sigma, jpeg_quality))


def _noise(estimate: Estimate, sigma: float | None) -> float:
    return 255 * (estimate.sigma or 0.0) if sigma is None else sigma


def _is_sharp(estimate: Estimate) -> bool:
    if estimate.limits is None or estimate.spread is None or estimate.kernel_field is not None:
        return False  # one that varies may be sharp in the middle, say, and soft in the corners
    return estimate.spread[0] < estimate.limits.sharp


def _is_uncertain(estimate: Estimate) -> bool:
    error, limits = estimate.expected_error, estimate.limits
    return error is not None and limits is not None and error > limits.uncertain


def _variances(estimate: Estimate) -> str:
    error = estimate.expected_error or 0.0
    return f"its variances ± {error:.0%}" if error <= 1 else "its variances are unknown"


def _error(estimate: Estimate) -> str:
    return f"kernel uncertain ({_variances(estimate)})"


def _cause(estimate: Estimate, limits: Limits, damaged: bool, own_size: bool) -> str:
    """Why the kernel is uncertain."""
    error = _error(estimate)
    largest, smallest = estimate.spread or (0.0, 0.0)
    if damaged:
        return f"{error}, for that reason"
    wide, instead = largest > limits.wide, LEFT if own_size else INSTEAD
    if wide and largest > limits.linear * smallest:
        return f"motion: {error}, only Gaussian blur can be undone; {instead}"
    if wide:
        return f"out of focus, or enlarged already: {error}; reduce the picture to half its size first; {instead}"
    return f"too little texture: {error}; take a part with edges, or give the kernel of a picture of the same camera"
