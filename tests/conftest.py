"""Where the reference material lies, and small images that need no file."""

import gc
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from blindsr.images import read_image
from blindsr.paths import data_folder

REPOSITORY = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run side by side: threads of one would only be in another's way.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of official weights and golden values: BLINDSR_REFERENCE, or ../shared/reference."""
    folder = Path(os.environ.get("BLINDSR_REFERENCE", REPOSITORY.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"no reference material at {folder}; BLINDSR_REFERENCE names its place")
    return folder


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of inputs that went wrong: BLINDSR_CASES, or ../shared/cases."""
    folder = Path(os.environ.get("BLINDSR_CASES", REPOSITORY.parent / "shared" / "cases"))
    if not folder.is_dir():
        pytest.skip(f"no inputs that went wrong at {folder}; BLINDSR_CASES names their place")
    return folder


@pytest.fixture(scope="session")
def golden(reference: Path):
    """golden(name) → the archive of that name."""
    return lambda name: np.load(reference / "golden" / f"{name}.npz")


@pytest.fixture(scope="session")
def picture() -> Tensor:
    """1×3×72×96 float32: edges in all directions and texture, the same in every run."""
    rows, cols = torch.meshgrid(torch.linspace(0, 1, 72), torch.linspace(0, 1, 96), indexing="ij")
    rings = 0.5 + 0.5 * torch.sign(torch.sin(16 * (rows**2 + cols**2)))
    stripes = 0.5 + 0.5 * torch.sin(12 * rows + 20 * cols)
    noise = torch.rand(72, 96, generator=torch.Generator().manual_seed(0))
    channels = [0.7 * rings + 0.05 * noise, 0.6 * stripes + 0.3 * rings, 0.05 * noise + 0.4 * rings + 0.4 * rows]
    return 0.05 + 0.9 * torch.stack(channels)[None]


@pytest.fixture(scope="session")
def photograph() -> Tensor:
    """The photograph that ships with the project, 1×3×288×432 float32."""
    return read_image(data_folder() / "datasets" / "Test" / "HR" / "chelsea.png")[..., :288, :432]


@pytest.fixture(scope="session")
def resumes_exactly():
    """resumes_exactly(train, whole, folder): broken off at step 5 and resumed, it ends like ``whole``."""

    class Stop(Exception):
        pass

    def interrupt(step, loss):
        if step == 5:
            raise Stop

    def check(train, whole, folder):
        cpu = torch.device("cpu")
        with pytest.raises(Stop):
            train(folder, cpu, on_step=interrupt)
        resumed = train(folder, cpu, resume=folder / "last.pt")
        for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
            assert torch.equal(a, b), name

    return check


@pytest.fixture
def evil_pickle(tmp_path: Path) -> Path:
    """A checkpoint that would create the file ``executed`` beside itself if it were unpickled freely."""

    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"model_state": Payload()}, protocol=2))
    return path


@pytest.fixture
def double_precision():
    """Everything in float64, so that a search does not amplify the rounding of what is compared."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
