"""What speaks against a result, with its cause and what can be done about it, a line each."""

from blindsr.estimation import Estimate

__all__ = ["doubts", "is_beyond_kernels", "is_left_alone"]

UNCERTAIN = 0.32
"""Expected relative error of a kernel's covariance above which a prepared LR image's is doubted: those of BSDS500
have 0.06 to 0.23, up to four times enlarged too; gradients, single edges and flat areas 0.38 to 0.76 (at x8 0.21 to
0.35)."""
UNCERTAIN_PHOTOGRAPH = 0.45
"""The same of a photograph: BSDS500's have 0.20 to 0.29 as they are and up to 0.45 with noise of 20 grey levels."""
WIDE = 0.85
"""Standard deviation in LR pixels from which on a doubted blur may be none of the Gaussian kernels."""
UNCERTAIN_OWN_SIZE, WIDE_OWN_SIZE, NOISY_OWN_SIZE = 0.7, 1.0, 2.5
"""Of a picture that keeps its size: expected error and standard deviation in pixels above which, and grey levels of
noise up to which, blur is taken for none of the Gaussian kernels. Without noise, of those 0.06 to 0.56 was expected,
of lines of 9 and 15 pixels 0.7 to 2.0. With noise it is as large of Gaussians, and undoing the nearest one does no
harm."""
LINEAR = 1.8
"""Ratio of its standard deviations from which on it is motion: off lines of 5 to 15 pixels 1.6 to 3.2 were read, off
discs 1.0 to 1.4."""
NOISY = 15.0
"""Grey levels of noise from which on little detail comes back."""
INSTEAD = "enlarged by bicubic instead; give a kernel of your own to NonblindSR"
LEFT = "left as it is; give a kernel of your own to NonblindSR"
SHARP = 0.45
"""Standard deviation in pixels below which blur at a picture's own size is left as it is: of unblurred photographs of
BSDS500 up to 0.1 is read, of those blurred by 0.7 pixels 0.55 and more."""
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
    """Doubts of a result.

    Args:
        sigma: noise level in grey levels that was read off the image, where the estimator did not; one that the user
            told is none.
        jpeg_quality: of the file that the image came in, where it is one.
        own_size: whether the image keeps its size (x1).
    """
    if not photograph:
        if estimate.expected_error is None or estimate.expected_error <= UNCERTAIN:
            return ()
        return (f"uncertain: too little of the blur shows (its variances ± {estimate.expected_error:.0%})",)
    if own_size and _is_sharp(estimate):
        return ("sharp: no blur is seen that could be undone; left as it is",)
    found, noise = [], _noise(estimate, sigma)
    if noise >= NOISY:
        found.append(f"noise: {noise:.0f} grey levels, little detail comes back; --sigma sets more or less smoothing")
    if jpeg_quality is not None and jpeg_quality < COMPRESSED:
        found.append(f"compression: JPEG of quality {jpeg_quality} hides the blur; take the camera's own file")
    if estimate.expected_error is not None and estimate.expected_error > _uncertain(own_size):
        if own_size and not found and noise >= NOISY_OWN_SIZE:
            error = _error(estimate)
            found.append(
                f"noise hides the blur: {error}; take a part with strong edges, or a picture with less noise"
            )
        else:
            found.append(_cause(estimate, bool(found), own_size))
    if is_beyond_kernels(estimate, photograph, sigma, jpeg_quality, own_size=own_size):
        return tuple(found)  # nothing is undone anywhere
    field = estimate.kernel_field
    if field is not None and field.beyond > BEYOND:
        found.append(f"out of focus in part: {field.beyond:.0%} of the picture is blurred more than can be undone")
    return tuple(found)


def is_beyond_kernels(
    estimate: Estimate,
    photograph: bool,
    sigma: float | None = None,
    jpeg_quality: int | None = None,
    *,
    own_size: bool = False,
) -> bool:
    """Whether a photograph's blur is none of the Gaussian kernels: motion, or far out of focus. Arguments as above.

    Undoing the nearest Gaussian does harm then: of lines of 11 and discs of 4 HR pixels it left 0.2 to 4.1 dB less
    than bicubic enlargement.
    """
    if not photograph or estimate.expected_error is None or estimate.spread is None:
        return False
    noisy = NOISY_OWN_SIZE if own_size else NOISY
    damaged = _noise(estimate, sigma) >= noisy or (jpeg_quality or 100) < COMPRESSED
    return not damaged and estimate.expected_error > _uncertain(own_size) and estimate.spread[0] > _wide(own_size)


def is_left_alone(
    estimate: Estimate,
    photograph: bool,
    sigma: float | None = None,
    jpeg_quality: int | None = None,
    *,
    own_size: bool = False,
) -> bool:
    """Whether a photograph is only enlarged, which at its own size changes nothing: it is sharp, or its blur cannot
    be undone (:func:`is_beyond_kernels`). Arguments as above."""
    if photograph and own_size and _is_sharp(estimate):
        return True
    return is_beyond_kernels(estimate, photograph, sigma, jpeg_quality, own_size=own_size)


def _noise(estimate: Estimate, sigma: float | None) -> float:
    return 255 * (estimate.sigma or 0.0) if sigma is None else sigma


def _is_sharp(estimate: Estimate) -> bool:
    varies = estimate.kernel_field is not None  # sharp in the middle, say, and soft in the corners
    return not varies and estimate.spread is not None and estimate.spread[0] < SHARP


def _uncertain(own_size: bool) -> float:
    return UNCERTAIN_OWN_SIZE if own_size else UNCERTAIN_PHOTOGRAPH


def _wide(own_size: bool) -> float:
    return WIDE_OWN_SIZE if own_size else WIDE


def _error(estimate: Estimate) -> str:
    return f"kernel uncertain (its variances ± {estimate.expected_error:.0%})"


def _cause(estimate: Estimate, damaged: bool, own_size: bool) -> str:
    """Why the kernel is uncertain."""
    error = _error(estimate)
    largest, smallest = estimate.spread or (0.0, 0.0)
    if damaged:
        return f"{error}, for that reason"
    wide, instead = largest > _wide(own_size), LEFT if own_size else INSTEAD
    if wide and largest > LINEAR * smallest:
        return f"motion: {error}, only Gaussian blur can be undone; {instead}"
    if wide:
        return f"out of focus, or enlarged already: {error}; reduce the picture to half its size first; {instead}"
    return f"too little texture: {error}; take a part with edges, or give the kernel of a picture of the same camera"
