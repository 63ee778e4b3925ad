"""`flows/product_images.py` as a program for tests to stop: python … <parameters as JSON>

It is not retried, and prints what Linux says of its memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flows.product_images import product_images

if __name__ == "__main__":
    try:
        result = product_images.with_options(retries=0)(**json.loads(sys.argv[1]))
        print("RESULT", result and result.summary)
    finally:  # not getrusage, which counts what the parent had, too
        print(Path("/proc/self/status").read_text())
