"""An evaluation that is ended goes on from what its ranks have put down, with the same numbers."""

import shutil
from pathlib import Path

import kept_ranks
import pyarrow.parquet as pq
import pytest
from asked import stones

from orchestrator.checkpoint import checkpoint_at
from orchestrator.checkpoint.find import commit_marker
from orchestrator.errors import TrainwrightError
from orchestrator.inference import evaluate as evaluation
from orchestrator.inference.evaluate import evaluate, going_on, order_of, with_metrics
from orchestrator.spec.data import FileSource


@pytest.mark.parametrize("ended_by", [kept_ranks.dying, kept_ranks.leaving])
def test_it_goes_on_where_it_was(classifier, tmp_path, monkeypatch, ended_by):
    """What is put down as the time has come, and, of a rank that will go, at each look."""
    path, home, workers = tmp_path / "new.parquet", tmp_path / "home", 2
    home.mkdir()
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(home))
    asked = with_metrics(classifier.plan, ("f1", "auroc"))
    pq.write_table(stones(40 * asked.micro_batch_size * workers - 3, seed=5), path, row_group_size=100)

    def measured(by):
        monkeypatch.setattr(evaluation, "measure", by)
        source = FileSource(kind="parquet", path=str(path))
        return evaluate(asked, classifier.saved, source, name="new", averaged=False, workers=workers)

    with pytest.raises(TrainwrightError):
        measured(ended_by)
    (kept,) = (file for file in home.glob("cache/evaluations/*") if file.is_dir())
    assert sorted(folder.name for folder in kept.iterdir()) == ["0000000016", "0000000032"]
    for note in home.rglob("added-*"):
        note.unlink()
    ended = measured(kept_ranks.putting_down)
    added = {note.name for note in home.rglob("added-*")}
    assert added == {f"added-{rank}-{batch}" for rank in range(workers) for batch in range(32, 40)}
    assert not kept.exists()
    assert measured(kept_ranks.putting_down) == ended
    assert len(list(home.rglob("added-*"))) == 40 * workers


def test_another_checkpoint_in_the_same_folder_is_measured_anew(classifier, tmp_path):
    """A run may be deleted, and another one called like it."""
    folder = tmp_path / "checkpoints" / Path(classifier.saved.path).name
    shutil.copytree(classifier.saved.path, folder)

    def kept():
        order = order_of(classifier.plan, checkpoint_at(str(folder)), None, averaged=False)
        with going_on(order, str(tmp_path)) as measured:
            return measured["kept"]

    before = kept()
    assert kept() == before
    changed = (folder / "manifest.json").read_bytes() + b"\n"
    (folder / "manifest.json").write_bytes(changed)
    (folder / "COMMITTED").write_bytes(commit_marker(changed))
    assert kept() != before
