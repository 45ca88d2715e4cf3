"""Make the folders of photographs that the shipped networks were trained on, out of BSDS500 and Debian's wallpapers.

The wallpapers are those of the packages mate-backgrounds, lomiri-wallpapers-16.04, lomiri-wallpapers-20.04 and
plasma-workspace-wallpapers, installed or unpacked (apt-get download NAME, dpkg -x FILE unpacked/):

python training_photographs.py --bsds BSDS500/ --debian unpacked/ -o ../photographs/
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import tyro
from PIL import Image
from tqdm import tqdm

from blindsr.command import parse, run

MATE = [
    "Aqua",
    "Blinds",
    "Dune",
    "FreshFlower",
    "Garden",
    "GreenMeadow",
    "LadyBird",
    "RainDrops",
    "Storm",
    "TwoWings",
    "Wood",
    "YellowFlower",
]
LOMIRI = [
    "Bridge_by_Sander_Klootwijk",
    "Dragonfly_by_Bolly",
    "Kleiber_by_Lukas_Baubkus",
    "Picture_0B_by_freespace",
    "Picture_1A_by_freespace",
    "Wine_by_Jakkub_Mede",
    "aitzgorri_by_Aitzol_Berasategi",
    "analogpattern_by_Peter_Nerlich",
    "free_by_Peter_Nerlich",
    "friends_by_Aitzol_Berasategi",
    "greentock_by_Peter_Nerlich",
    "life_by_Aitzol_Berasategi",
    "picosdeeuropa_by_Aitzol_Berasategi",
    "seeding_by_Clements_Engelhardt",
    "sunset_by_Aitzol_Berasategi",
]
PLASMA = [
    "BytheWater",
    "ColdRipple",
    "EveningGlow",
    "FallenLeaf",
    "Grey",
    "Kite",
    "OneStandsOut",
    "Path",
]
WALLPAPERS = (
    {name: f"usr/share/backgrounds/mate/nature/{name}.jpg" for name in MATE}
    | {name: f"usr/share/backgrounds/{name}.jpg" for name in LOMIRI}
    | {name: f"usr/share/wallpapers/{name}/contents/images/2560x1600.jpg" for name in PLASMA}
)
"""The photographs among the wallpapers; the others are drawings."""
SIDES = (640, 1200, 3000)
"""Longest sides in pixels that each wallpaper is reduced to."""
HELD_OUT = 8
"""Photographs of BSDS500, the last by name, that USRNet's training holds out; no smaller copy of them is made."""


@dataclass(frozen=True)
class Options:
    """What ``python training_photographs.py`` takes."""

    bsds: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The 400 photographs of BSDS500 that are not in BSD100 (folders train and test, without BSD100's)."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Where usrnet/ and predictor/ go; it must not exist yet."""
    debian: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("/")
    """Root that the packages are installed in or were unpacked to."""


def averaged(path: Path, side: int) -> cv2.typing.MatLike:
    """A picture reduced to a longest side by averaging, which leaves no traces of JPEG."""
    image = cv2.imread(str(path))
    if image is None:
        raise ValueError(f"{path}: cannot be read; fetch it again")
    height, width = image.shape[:2]
    share = min(1, side / max(height, width))
    return cv2.resize(image, (round(width * share), round(height * share)), interpolation=cv2.INTER_AREA)


def main() -> int:
    options = parse(Options, __doc__ or "")
    photographs = sorted(options.bsds.rglob("*.jpg"))
    if not photographs:
        raise ValueError(f"--bsds {options.bsds}: holds no .jpg; name the folder of BSDS500's photographs")
    wallpapers = {name: options.debian / path for name, path in WALLPAPERS.items()}
    for path in wallpapers.values():
        if not path.is_file():
            raise ValueError(
                f"{path}: is missing; install the packages that --help names, or unpack them for --debian"
            )
    if options.output_dir.exists():
        raise ValueError(f"--output-dir {options.output_dir}: exists; choose another or remove it")
    # The trainings hold out the last pictures by path: BSDS500's folder comes last.
    predictor, usrnet = options.output_dir / "predictor", options.output_dir / "usrnet"
    for folder in [predictor / "bsds500", usrnet / "bsds500", usrnet / "b_averaged"]:
        folder.mkdir(parents=True)
    for path in photographs:
        for network in (predictor, usrnet):
            shutil.copyfile(path, network / "bsds500" / path.name)
    for side in SIDES:
        (predictor / f"a{side}").mkdir()
        for name, path in tqdm(wallpapers.items(), f"wallpapers of {side} pixels", delay=0.1):
            with Image.open(path) as file:
                image = file.convert("RGB")
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            image.save(predictor / f"a{side}" / f"{name}.png")
    for side in SIDES[:2]:
        shutil.copytree(predictor / f"a{side}", usrnet / f"a{side}")
    for side, smaller in zip(SIDES, (640, 420, 960), strict=True):
        for path in sorted((predictor / f"a{side}").iterdir()):
            cv2.imwrite(str(usrnet / "b_averaged" / f"a{side}_{path.name}"), averaged(path, smaller))
    for path in sorted(photographs, key=lambda path: path.name)[:-HELD_OUT]:
        cv2.imwrite(str(usrnet / "b_averaged" / f"half_{path.stem}.png"), averaged(path, 240))
    print(f"photographs: {predictor}, {usrnet}")
    return 0


if __name__ == "__main__":
    run(main)
