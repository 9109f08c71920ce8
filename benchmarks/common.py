"""What the benchmarks share: where results go."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from penjing.measuring import machine

RESULTS = Path(__file__).parent / "results"


def record(name: str, data: dict[str, Any]) -> Path:
    """Write one benchmark's figures, with the machine and the day, to results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    here = machine()
    content = {
        "benchmark": name,
        "command": f"python -m benchmarks.{name}",
        "day": datetime.now(UTC).date().isoformat(),
        "machine": {**here.to_data(), "fingerprint": here.fingerprint},
        **data,
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return path
