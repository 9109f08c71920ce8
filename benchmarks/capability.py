"""What number formats, widths, sparsity and low rank are worth in each runtime: the table of this machine.

    python -m benchmarks.capability

The same as `penjing calibrate-machine`, with the time that it took.
"""

import time

from benchmarks.common import record
from penjing.measuring.capability import calibrate


def main() -> None:
    started = time.monotonic()
    rows = calibrate()
    record("capability", {"seconds": time.monotonic() - started, "rows": [row.to_data() for row in rows]})


if __name__ == "__main__":
    main()
