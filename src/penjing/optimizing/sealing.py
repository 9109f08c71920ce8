"""What becomes known of a deployed file after it was written goes into its manifest."""

from typing import Any

from penjing.runtimes import Artifact
from penjing.storage import write_manifest
from penjing.types import Decision, Status
from penjing.verdict import Verdict


def seal(artifact: Artifact, **known: Any) -> None:
    """Write what has become known of an artefact into its manifest."""
    write_manifest(artifact.path, artifact.manifest.model_copy(update=known))


def seal_verdict(artifact: Artifact, verdict: Verdict) -> dict[str, Any]:
    """Write a verdict into the manifest of the artefact that it is on, and give it as JSON values."""
    data = {**verdict.to_data(), "sentence": verdict.sentence()}
    passed = verdict.outcome is Decision.PASS
    seal(artifact, verdict=data, status=Status.CERTIFIED if passed else Status.SEARCH_ESTIMATE)
    return data
