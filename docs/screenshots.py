"""Makes the documentation's pictures of Prefect's UI from what the browser tests see.

python docs/screenshots.py                # runs the tests: Chromium and the extra browser
python docs/screenshots.py --seen FOLDER  # takes what an earlier run has kept in SCREENSHOTS
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
LIMIT = 100_000
#: What is taken, as the name that a test keeps it by, and how many pixels from the top.
PICTURES: dict[str, int | None] = {
    "job-form-v2": None,
    "run-form-v2": 812,
    "run-v2": None,
    "morning-summary-v2": 1260,
    "morning-gallery-v2": 1280,
}


def look(folder: str) -> None:
    """Run the tests, which keep what they see."""
    words = [sys.executable, "-m", "pytest", "-q", "tests/browser"]
    subprocess.run(words, cwd=ROOT, env={**os.environ, "SCREENSHOTS": folder}, check=True)  # noqa: S603


def write(seen: Path, name: str, height: int | None) -> None:
    """One picture, as small as it has to be."""
    picture = Image.open(seen / f"{name}.png").convert("RGB")
    path = IMAGES / f"{name}.webp"
    picture.crop((0, 0, picture.width, height or picture.height)).save(path, quality=75, method=6)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
    if path.stat().st_size > LIMIT:
        sys.exit(f"{name} has over {LIMIT / 1000:.0f} kB: show less of it.")


def main() -> None:
    """Look, and write what the documentation shows."""
    parser = argparse.ArgumentParser(description="Make the pictures of Prefect's UI for the docs.")
    parser.add_argument("--seen", type=Path, help="a folder that SCREENSHOTS named in a run")
    seen = parser.parse_args().seen
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if seen is None:
            look(folder)
        for name, height in PICTURES.items():
            write(seen or Path(folder), name, height)


if __name__ == "__main__":
    main()
