import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from blindsr.batch.inputs import find_items, input_items
from blindsr.images import read_image, to_uint8
from blindsr.kernel_files import read_kernel
from blindsr.picture_names import passed_over
from data.prepare_dataset import prepare_for as prepare


@pytest.mark.parametrize("scale_factor", [2, 3, 4])
def test_set5_comes_out_as_published(reference, tmp_path, scale_factor):
    shutil.copytree(reference / "Set5" / "HR", tmp_path / "HR")
    assert all(error is None for _, error in prepare(tmp_path, "DIPFKP", scale_factor))
    published = find_items(str(reference / "Set5"), "DIPFKP", scale_factor)
    ours = find_items(str(tmp_path), "DIPFKP", scale_factor)
    assert [item.name for item in ours] == [item.name for item in published] and len(ours) == 5
    for a, b in zip(ours, published, strict=True):
        np.testing.assert_array_equal(to_uint8(read_image(a.lr)), to_uint8(read_image(b.lr)))
        np.testing.assert_allclose(read_kernel(a.kernel), read_kernel(b.kernel), atol=1e-12, rtol=0)


def test_kernelgan_kernels_come_out_as_published(golden, tmp_path):
    (tmp_path / "HR").mkdir()
    cv2.imwrite(str(tmp_path / "HR" / "a.png"), np.zeros((60, 61, 3), np.uint8))
    for scale_factor in (2, 4):
        list(prepare(tmp_path, "KernelGANFKP", scale_factor))
        (item,) = find_items(str(tmp_path), "KernelGANFKP", scale_factor)
        first = golden("kernels_random_seed1")[f"KernelGANFKP_x{scale_factor}"][0]
        np.testing.assert_allclose(read_kernel(item.kernel)[0, 0], first, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="--sf 3"):
        list(prepare(tmp_path, "KernelGANFKP", 3))


def test_noise_is_drawn_from_the_seed(tmp_path):
    (tmp_path / "HR").mkdir()
    cv2.imwrite(str(tmp_path / "HR" / "a.png"), np.full((64, 64, 3), 128, np.uint8))

    def made(**options):
        list(prepare(tmp_path, "DIPFKP", 2, overwrite=True, **options))
        (item,) = find_items(str(tmp_path), "DIPFKP", 2)
        return to_uint8(read_image(item.lr)), read_kernel(item.kernel).numpy()

    plain = made()
    noisy = made(image_noise=0.2, kernel_noise=0.4, seed=3)
    again = made(image_noise=0.2, kernel_noise=0.4, seed=3)
    assert plain[0].std() < 1 < noisy[0].std()
    for a, b in zip(noisy, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert abs(plain[1] - noisy[1]).max() > 1e-3


def test_a_set_is_completed_but_never_replaced_unasked(tmp_path):
    (tmp_path / "HR").mkdir()
    for name in ("a", "c"):
        cv2.imwrite(str(tmp_path / "HR" / f"{name}.png"), np.full((64, 64, 3), 128, np.uint8))
    list(prepare(tmp_path, "DIPFKP", 2))
    a, c = find_items(str(tmp_path), "DIPFKP", 2)
    before = c.kernel.read_bytes()
    a.lr.unlink()
    list(prepare(tmp_path, "DIPFKP", 2))
    assert a.lr.is_file()
    assert c.kernel.read_bytes() == before
    for change in ({"seed": 2}, {"image_noise": 0.2}):
        with pytest.raises(ValueError, match="--overwrite"):
            list(prepare(tmp_path, "DIPFKP", 2, **change))
    cv2.imwrite(str(tmp_path / "HR" / "b.png"), np.full((64, 64, 3), 128, np.uint8))  # c's kernel would be another
    with pytest.raises(ValueError, match=r"c\.mat.*--overwrite"):
        list(prepare(tmp_path, "DIPFKP", 2))
    assert not (tmp_path / "DIPFKP_lr_x2" / "b.png").exists()
    assert c.kernel.read_bytes() == before
    list(prepare(tmp_path, "DIPFKP", 2, overwrite=True))
    assert c.kernel.read_bytes() != before
    (tmp_path / "HR" / "c.png").unlink()
    with pytest.raises(ValueError, match=r"c\.png.*--overwrite"):
        list(prepare(tmp_path, "DIPFKP", 2))
    list(prepare(tmp_path, "DIPFKP", 2, overwrite=True))
    assert [item.name for item in find_items(str(tmp_path), "DIPFKP", 2)] == ["a", "b"]
    assert not c.kernel.exists()


def test_one_bad_picture_does_not_stop_the_others(tmp_path):
    (tmp_path / "HR").mkdir()
    for name in ("a", "c"):
        cv2.imwrite(str(tmp_path / "HR" / f"{name}.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "HR" / "b.png").write_text("no picture")
    errors = {path.stem: error for path, error in prepare(tmp_path, "DIPFKP", 2)}
    assert errors["a"] is None
    assert errors["c"] is None
    assert "b.png" in errors["b"]


def test_missing_places_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such dataset"):
        find_items("Nowhere", "DIPFKP", 2)
    (tmp_path / "HR").mkdir()
    with pytest.raises(FileNotFoundError, match=r"prepare_dataset\.py --model DIPFKP --sf 2"):
        find_items(str(tmp_path), "DIPFKP", 2)
    with pytest.raises(FileNotFoundError, match="no pictures"):
        input_items([tmp_path])


def test_pictures_that_differ_in_their_suffix_keep_their_results_apart(tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        (tmp_path / name).touch()
    assert sorted(item.name for item in input_items([tmp_path])) == ["a_jpg", "a_png", "b"]
    (tmp_path / "b_kernel.png").touch()
    assert sorted(item.name for item in input_items([tmp_path])) == ["a_jpg", "a_png", "b", "b_kernel_png"]
    for name in ("b.json", "b.mat"):  # beside which it is no photograph, but of an earlier run
        (tmp_path / name).touch()
    assert sorted(item.name for item in input_items([tmp_path])) == ["a_jpg", "a_png", "b"]
    assert [path.name for path, _ in passed_over(tmp_path)] == ["b_kernel.png"]


def test_pictures_are_named_by_paths_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.jpg", "a/y.png", "b/x.jpg", "b/[z].png", "b/notes.txt", "c.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()

    def found(*paths):
        return {item.name: str(item.lr) for item in input_items([Path(path) for path in paths])}

    assert found("a/*.jpg", "c.png") == {"x": "a/x.jpg", "c": "c.png"}
    assert found(tmp_path / "?" / "x.jpg") == {f"{f}_x": str(tmp_path / f / "x.jpg") for f in "ab"}
    assert found("a", "b/x.jpg", "b/*") == {"a_x": "a/x.jpg", "y": "a/y.png", "b_x": "b/x.jpg", "[z]": "b/[z].png"}
    assert found("b/[z].png", "b/../b/[z].png") == {"[z]": "b/[z].png"}  # a file of that name is no pattern
    with pytest.raises(FileNotFoundError, match=r"\*\.gif: no picture matches"):
        found("c.png", "a/*.gif")
    with pytest.raises(FileNotFoundError, match="absent"):
        found("c.png", "absent.png")


def test_pictures_of_differing_names_are_paired_by_their_numbers(tmp_path):
    """DIV2KRK's names."""
    for folder, stem in (("HR", "img"), ("DIPFKP_lr_x2", "im"), ("DIPFKP_gt_k_x2", "kernel")):
        (tmp_path / folder).mkdir()
        for number in (1, 2, 10):
            (tmp_path / folder / f"{stem}_{number}.{'mat' if stem == 'kernel' else 'png'}").touch()
    for item, number in zip(find_items(str(tmp_path), "DIPFKP", 2), (1, 10, 2), strict=True):
        assert (item.lr.stem, item.hr.stem, item.kernel.stem) == (f"im_{number}", f"img_{number}", f"kernel_{number}")
    (tmp_path / "HR" / "img_1.png").rename(tmp_path / "HR" / "other_2.png")  # two of one number
    assert find_items(str(tmp_path), "DIPFKP", 2)[0].hr == tmp_path / "HR" / "im_1.png"


def test_brackets_in_the_name_of_a_folder(tmp_path):
    folder = tmp_path / "[2020] trip"
    folder.mkdir()
    for name in ("a.png", "b.png", "[c].png"):
        (folder / name).touch()
    assert [item.name for item in input_items([folder / "*.png"])] == ["[c]", "a", "b"]
    assert [item.name for item in input_items([folder / "[ab].png"])] == ["a", "b"]
    assert [item.name for item in input_items([folder / "[c].png"])] == ["[c]"]
