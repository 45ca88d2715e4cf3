"""Every command and every example of the README and of docs/, run on small things of the same kind; every link."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from commands import REPOSITORY, typed

from blindsr.degradation import degrade
from blindsr.images import write_image
from blindsr.kernel_files import write_kernel
from blindsr.kernels import random_kernels
from blindsr.metrics import kernel_psnr
from blindsr.paths import data_folder
from FKP.sources import kernel_source
from FKP.training import PriorSettings, train

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.S | re.M)
LINES = [line for language, block in BLOCKS if not language for line in block.splitlines() if "python" in line]
COMMANDS = list(dict.fromkeys([*LINES, *re.findall(r"`(cd \w+ && python [^`]+)`", TEXT)]))

DIP = "--iterations 3 --ssim-iterations 2 --frozen-iterations 1 --channels 8 --crop 64"
GAN = "--iterations 3 --frozen-iterations 1 --crops-per-step 4"
RESULTS = "--results {tmp}/results"
QUICK = {
    r"cd DIPFKP .*--path-KP": f"{DIP} --image-iterations 2 --image-channels 8 -o {{tmp}}/out",
    r"cd DIPFKP": f"{DIP} -o {{tmp}}/out",
    r"cd KernelGANFKP": f"{GAN} -o {{tmp}}/out",
    r"cd NonblindSR .*--kernel ": "-o {tmp}/out",
    r"cd NonblindSR .*--train": "--steps 1 --batch 2 --patch 24 --held-out 1 --scales 2 -o {tmp}/out",
    r"cd NonblindSR .*--evaluate": "--dataset {tmp}/Set5",
    r"cd NonblindSR .*-c ": "",
    r"cd FKP && python main.py --train .*--batch (250|500)": "--epochs 1 --kernels-per-epoch 500 -o {tmp}/out",
    r"cd FKP && python main.py --train": "--epochs 1 --kernels-per-epoch 200 -o {tmp}/out",
    r"cd FKP && python main.py --evaluate": "",
    r"cd FKP && python main.py --generate": "-o {tmp}/out",
    r"cd KernelPredictor .*--train": "--steps 1 --crops 16 --pixels 1024 --held-out 1 --scales 2 -o {tmp}/out",
    r"cd KernelPredictor .*--evaluate": "--crops 16 --pixels 1024 --held-out 1 --scales 2",
    r"prepare_dataset": "",
    r"benchmarks/dataset.*--methods paper": f"--methods prediction --scales 2 {RESULTS}",
    r"benchmarks/dataset.*--noise": f"--dataset {{tmp}}/Set5 --methods bicubic oracle {RESULTS}",
    r"benchmarks/dataset": f"--dataset {{tmp}}/Set5 --methods bicubic prediction oracle --scales 2 {RESULTS}",
    r"benchmarks/nonblind": f"--scales 4 --noises 10 --pictures chelsea {RESULTS}",
    r"benchmarks/likelihood": f"--scales 2 {RESULTS}",
    r"benchmarks/confidence": f"--scales 2 --zooms 1 --groups 1 --held-out 1 {RESULTS}",
    r"benchmarks/variants": f"--variants prediction --scales 2 --photographs 1 --held-out 1 {RESULTS}",
    r"benchmarks/critic": f"--batch 2 --steps 1 {RESULTS}",
    r"benchmarks/image_prior": f"--sides 32 --steps 1 {RESULTS}",
    r"benchmarks/estimators": f"--methods 'DIP-FKP, prediction' --scales 2 --seeds 0 --pictures coins {RESULTS}",
    r"benchmarks/photographs": f"--scales 4 --no-oracles --kinds clean {RESULTS}",
    r"benchmarks/misfit": f"--families motion --photographs 1 --held-out 1 --iterations 6 {RESULTS}",
    r"benchmarks/off_distribution": f"--methods bicubic prediction --photographs 1 --held-out 1 {RESULTS}",
    r"benchmarks/known_picture": f"--kernels motion --photographs 1 --held-out 1 {RESULTS}",
    r"benchmarks/spline_flow.*--steps": f"--kernels motion --steps 2 --batch 20 {RESULTS}",
    r"benchmarks/spline_flow": f"--couplings spline --kernels motion --steps 2 --batch 20 {RESULTS}",
    r"benchmarks/families": "",
    r"benchmarks/deblurring": f"--pictures 1 --widths 1.5 --noises 5 {RESULTS}",
    r"benchmarks/blind": f"--pictures 1 --kernels motion --noises 5 --methods input ours {RESULTS}",
    r"benchmarks/local": f"--scales 4 --kinds uniform --pictures 1 {RESULTS}",
    r"benchmarks/tables": "",
    r"benchmarks/figures": "--output {tmp}/figures",
}
"""What makes each command short: the first pattern found in it decides. An -o of its own is kept."""

FAR = "--workers|--ray|s3://"
"""What needs Ray or a server: tests/test_ray.py, tests/test_storage.py."""
ELSEWHERE = (
    r"benchmarks/(compare|killed|overview|pages|photograph_examples|gpu|workers|driver)|training_photographs"
    rf"|-m pytest|-m blindsr|{FAR}"
)
"""tests/test_compare.py; ten minutes, in small tests/test_killed.py; Chromium, tests/test_demo.py; pictures;
tests/test_gpu.py; timings; tests/test_cli.py; this very run, tests/test_hostile.py; tests/test_report.py,
test_comparison.py and test_script.py."""


def extra_options(command):
    if re.search(FAR, command):
        return None
    extra = next((extra for pattern, extra in QUICK.items() if re.search(pattern, command)), None)
    return extra.replace("-o {tmp}/out", "") if extra and " -o " in command else extra


@pytest.fixture(scope="module")
def small(tmp_path_factory, picture):
    """What the commands name: photographs, a kernel, a dataset, weights."""
    tmp = tmp_path_factory.mktemp("readme")
    pixels = (255 * picture[0].permute(1, 2, 0).numpy()).astype(np.uint8)[:48, :64]
    for name in ("photo.jpg", "portrait.png", "holiday/a.jpg", "holiday/b.jpg", "Set5/HR/a.png", "DIV2K/HR/a.png"):
        write_image(tmp / name, pixels)
    for folder in ("photographs/usrnet", "photographs/predictor/bsds500", "BSDS500"):
        for name in ("a.png", "b.png"):
            write_image(tmp / folder / name, np.kron(pixels, np.ones((7, 7, 1), np.uint8)))
    write_kernel(tmp / "k.mat", random_kernels(1, 3, torch.Generator().manual_seed(0)))
    shutil.copytree(data_folder() / "pretrained_models", tmp / "official")
    (tmp / "kernels").mkdir()
    for i, kernel in enumerate(random_kernels(12, 2, torch.Generator().manual_seed(0)).split(1)):
        write_kernel(tmp / "kernels" / f"{i}.mat", kernel)
    settings = PriorSettings(epochs=1, kernels_per_epoch=200)
    train(kernel_source(str(tmp / "kernels"), 2), settings, tmp / "mine", torch.device("cpu"))
    (tmp / "mine" / "FKP_kernels_x2_last.pt").unlink()  # a training of before, which the page's would be refused for
    for stage in ("first", "second", "eighth", "ninth", "tenth", "photo_first"):
        (tmp / stage).mkdir()
        for name in ("usrnet_tiny.pth", "usrnet_tiny_photo.pth", "kernel_predictor.pth"):
            shutil.copy(data_folder() / "pretrained_models" / name, tmp / stage)
    for scale_factor in (2, 3, 4):
        done = typed("data", "--sf", scale_factor, "--dataset", tmp / "Set5", script="prepare_dataset.py")
        assert done.returncode == 0, done.stderr
    return tmp


@pytest.fixture
def in_this_process(monkeypatch):
    """Benchmarks import each other, and measure without processes of their own, which take seconds to start."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))

    @contextmanager
    def inline():
        yield lambda function, *arguments: function(*arguments)

    monkeypatch.setattr("logbook.own_process", inline)


def test_every_command_is_run_here_or_elsewhere():
    assert len(COMMANDS) > 25
    unknown = [c for c in COMMANDS if extra_options(c) is None and not re.search(ELSEWHERE, c)]
    assert not unknown


@pytest.mark.parametrize(
    ("script", "option", "known"),
    [
        ("variants", "--variants", "VARIANTS"),
        ("estimators", "--methods", "METHODS"),
        ("dataset", "--methods", "METHODS"),
    ],
)
def test_what_the_commands_measure_is_known(script, option, known, in_this_process):
    # The runs below name their own, short ones.
    names = runpy.run_path(str(REPOSITORY / "benchmarks" / f"{script}.py"))[known]
    commands = [command for command in COMMANDS if f"benchmarks/{script}.py" in command and option in command]
    assert commands
    for command in commands:
        words = shlex.split(command)
        words = words[words.index(option) + 1 :]
        ends = [i for i, word in enumerate(words) if word.startswith("--")]
        assert set(words[: ends[0] if ends else None]) <= set(names), command


def marked(command):
    """What measures or trains is run beside the suite of every day."""
    marks = [pytest.mark.slow] + [pytest.mark.extended] * bool(re.search(r"benchmarks/|--train", command))
    if "spline" in command and find_spec("zuko") is None:
        marks.append(pytest.mark.skip(reason="no zuko: pip install blindsr[benchmarks]"))
    return pytest.param(command, marks=marks)


@pytest.mark.parametrize("command", [marked(command) for command in COMMANDS if extra_options(command) is not None])
def test_command(command, small, in_this_process):
    line = command.removeprefix(". ./setup.sh && ")
    folder = REPOSITORY
    if line.startswith("cd "):
        step, line = line.split(" && ", 1)
        folder = REPOSITORY / step.removeprefix("cd ")
    words = shlex.split(f"{line} {extra_options(command).format(tmp=small)}")
    assert words[0] == "python"
    for i, word in enumerate(words):
        first = word.removeprefix("../").split("/")[0]
        if first in {path.name for path in small.iterdir()} | {"sharp", "third", "photo", "photo_second"}:
            words[i] = str(small / word.removeprefix("../"))
        elif word.startswith("docs/"):
            words[i] = str(small / word.removeprefix("docs/"))
    shutil.rmtree(small / "out", ignore_errors=True)  # but no records: benchmarks skip what another command measured
    if words[1] == "-c":
        done = subprocess.run([sys.executable, *words[1:]], cwd=small, capture_output=True, text=True)
    else:
        # Without a process of its own; tests/test_cli.py runs each main.py in one.
        script = folder / words[1]
        done = typed(script.parent.relative_to(REPOSITORY), *words[2:], cwd=folder, script=script.name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_example(block):
    exec(compile(block, "example", "exec"), {"__name__": "example"})


def test_the_page_of_photographs_shows_what_its_commands_make():
    page = (REPOSITORY / "docs" / "photographs.md").read_text()
    examples = runpy.run_path(str(REPOSITORY / "benchmarks" / "photograph_examples.py"))["EXAMPLES"]
    commands = [command for example in examples for command in example.commands().values()]
    assert sorted(re.findall(r"^blindsr .*", page, flags=re.M)) == sorted(commands)
    shown = [f"photographs/{example.name.split('.')[0]}.jpg" for example in examples]
    assert re.findall(r"!\[[^]]+\]\(([^)]+)\)", page) == shown


def test_the_example_of_a_calibration_finds_the_kernel():
    calibrate = runpy.run_path(str(REPOSITORY / "examples" / "calibrate.py"), run_name="example")["calibrate"]
    chart = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    kernel = random_kernels(1, 2, torch.Generator().manual_seed(1))
    photo = degrade(chart, kernel, 2)
    assert kernel_psnr(calibrate(chart, photo, 2, steps=60), kernel) > 40


def anchors(page):
    """The headings of a page as GitHub links them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, data_folder() / "pretrained_models" / "README.md"], ids=lambda page: page.name
)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_two_pages():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 165


def test_old_words_are_gone():
    old = ["come to rest", "opposite border", "below (the )?true kernel", "pull(ed)?", "moved", "narrow(ed|ing)"]
    found = re.findall(rf".*\b(?:{'|'.join(old)}|default preset)\b.*", TEXT)
    assert not found


def test_places_named_to_contributors_exist():
    text = re.sub(r"^```.*?^```", "", (REPOSITORY / "CONTRIBUTING.md").read_text(), flags=re.S | re.M)
    places = {place for place in re.findall(r"`([^`]+)`", text) if "/" in place and " " not in place}
    assert len(places) > 15
    assert not [place for place in places if not (REPOSITORY / place).exists()]
