"""What stands in for a container engine in the tests on a real API server."""

from pathlib import Path

import pod_processes
from pod_processes import Mount, of_the_image


def test_a_volume_hides_nothing_of_the_image(tmp_path, monkeypatch):
    """Python, its packages or this checkout may lie below a folder that every pod has a volume at."""
    below, beside = tmp_path / "tmp" / "packages", tmp_path / "opt"
    below.mkdir(parents=True)
    beside.mkdir()
    monkeypatch.setattr(pod_processes, "_IMAGE", {below, beside, tmp_path / "tmp" / "none"})
    volume = Mount(Path("/somewhere"), str(tmp_path / "tmp"))
    assert of_the_image([volume]) == [Mount(below, str(below))]
    assert of_the_image([]) == []
