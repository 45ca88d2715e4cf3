import dataclasses

import pytest
import torch

from blindsr.doubts import doubts, is_beyond_kernels
from blindsr.estimation import Estimate, Limits

LIMITS = Limits(uncertain=0.45, wide=0.85, linear=1.8, noisy=15.0)
SURE = Estimate(torch.ones(1, 1, 3, 3) / 9, None, [], 0.0, 0, expected_error=0.2, spread=(0.5, 0.4), limits=LIMITS)


def test_a_good_photograph_raises_none():
    assert doubts(SURE, photograph=True, sigma=3.0, jpeg_quality=92) == ()


@pytest.mark.parametrize(
    ("changes", "arguments", "cause", "remedy"),
    [
        ({}, {"sigma": 22.0}, "noise: 22 grey levels", "--sigma"),
        ({}, {"jpeg_quality": 40}, "compression: JPEG of quality 40", "camera's own file"),
        ({"expected_error": 0.6, "spread": (1.1, 0.4)}, {}, "motion", "bicubic"),
        ({"expected_error": 0.6, "spread": (1.1, 1.0)}, {}, "out of focus", "half its size"),
        ({"expected_error": 0.6}, {}, "too little texture", "edges"),
    ],
)
def test_each_cause_has_its_remedy(changes, arguments, cause, remedy):
    (line,) = doubts(dataclasses.replace(SURE, **changes), photograph=True, **arguments)
    assert line.startswith(cause)
    assert remedy in line


def test_a_damaged_picture_is_not_taken_for_another_blur():
    lines = doubts(dataclasses.replace(SURE, expected_error=0.6, spread=(1.1, 0.4)), photograph=True, sigma=30.0)
    assert lines[0].startswith("noise")
    assert "for that reason" in lines[1]


def test_noise_that_was_told_is_no_doubt_but_what_was_read_is():
    """With --sigma 15 a clean picture is clean, and with --sigma 0 a noisy one noisy; sigma=None is a told one."""
    assert doubts(dataclasses.replace(SURE, sigma=2 / 255), photograph=True) == ()
    assert "20 grey levels" in doubts(dataclasses.replace(SURE, sigma=20 / 255), photograph=True)[0]
    moved = dataclasses.replace(SURE, expected_error=0.6, spread=(1.1, 0.4))
    assert is_beyond_kernels(dataclasses.replace(moved, sigma=2 / 255), photograph=True)
    assert not is_beyond_kernels(dataclasses.replace(moved, sigma=20 / 255), photograph=True)


def test_laboratory_data_are_doubted_for_their_texture_alone():
    assert doubts(SURE, photograph=False, sigma=30.0) == ()
    (line,) = doubts(dataclasses.replace(SURE, expected_error=0.5), photograph=False)
    assert "± 50%" in line
    assert "sharper or larger part" in line


def test_an_error_beyond_all_is_said_in_words():
    (line,) = doubts(dataclasses.replace(SURE, expected_error=1.04), photograph=True)
    assert "its variances are unknown" in line


def test_the_limits_are_the_estimator_s():
    unsure = dataclasses.replace(SURE, expected_error=0.5, spread=(1.1, 0.4))
    assert is_beyond_kernels(unsure, photograph=True)
    for limits in (None, dataclasses.replace(LIMITS, uncertain=0.6)):
        other = dataclasses.replace(unsure, limits=limits)
        assert doubts(other, photograph=True) == doubts(other, photograph=False) == ()
        assert not is_beyond_kernels(other, photograph=True)
