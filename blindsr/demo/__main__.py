"""A page for one photograph: drop it, see its kernel, then the result, and try another blur width or noise level.

python -m blindsr.demo
"""

import time
from dataclasses import dataclass

from blindsr.command import parse, run
from blindsr.demo.page import MEGAPIXELS
from blindsr.demo.server import served


@dataclass(frozen=True)
class Options:
    """What ``python -m blindsr.demo`` takes."""

    host: str = "127.0.0.1"
    """Address to serve at; 0.0.0.0 lets others on the network in."""
    port: int = 7860
    """Port to serve at."""
    megapixels: float = MEGAPIXELS
    """Larger photographs are refused."""
    open: bool = True
    """Show the page in the browser."""


def main() -> int:
    options = parse(Options, __doc__ or "", "python -m blindsr.demo")
    try:
        with served(options.host, options.port, options.megapixels, show=options.open) as address:
            print(f"{address} (Ctrl+C ends it)", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        place = f"--host {options.host} --port {options.port}"
        raise ValueError(f"{place}: cannot serve there; is it taken?") from error


if __name__ == "__main__":
    run(main)
