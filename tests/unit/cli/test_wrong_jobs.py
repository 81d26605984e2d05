"""What holds for the answers to mistakes, all of which stand in docs/mistakes.md."""

import errno
import os

import pytest
import wrong_jobs

from orchestrator.storage.local import SystemCalls

CASES = [wrong for wrongs in wrong_jobs.SECTIONS.values() for wrong in wrongs]


def case_id(wrong):
    return " ".join([wrong.command, *(new[:40] for _, new in wrong.edits)])


@pytest.mark.parametrize("wrong", CASES, ids=case_id)
def test_a_mistake_is_answered_in_sentences_and_an_exit_code(wrong):
    answer = wrong_jobs.answers()[wrong]
    assert answer.code in (2, 3, 4, 6)
    assert answer.message and "Traceback" not in answer.message and "Error:" not in answer.message
    assert all(": " in line and len(line) < 450 for line in answer.message.splitlines())
    assert "\n" in answer.message or answer.message.startswith("error: ")


def test_sizes_that_nothing_can_build_are_refused_in_a_second():
    found = wrong_jobs.answers()
    slow = [
        wrong
        for wrong in wrong_jobs.SECTIONS["Numbers"]
        if "size: debug" in wrong.edits[0] and found[wrong].cpu_seconds > 1.0
    ]
    assert slow == []


def test_there_are_as_many_as_the_page_promises():
    assert len(set(CASES)) == len(CASES) >= 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's files, and its surroundings."""
    folder = tmp_path_factory.mktemp("work")
    with wrong_jobs.surroundings(folder):
        wrong_jobs.write_files(folder)
        job = (folder / "job.yaml").read_text()
        table = "train: {kind: csv, path: table.csv}\n  columns: {features: [size], label: label}"
        job = job.replace(wrong_jobs.SOURCE, table).replace("family: cnn", "family: mlp")
        (folder / "table.yaml").write_text(job.replace("tensor: image", "tensor: features"))
        yield folder


@pytest.mark.parametrize(
    ("call", "fault"),
    [("write", errno.ENOSPC), ("fsync", errno.EDQUOT), ("link", errno.ENOSPC), ("open", errno.EROFS)],
)
def test_a_full_or_read_only_home_is_one_sentence_with_the_path(folder, monkeypatch, call, fault):
    def fail(*arguments):
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(SystemCalls, call, fail)
    answer = wrong_jobs.trainwright("submit", "job.yaml", "--id", f"no-{call}")
    assert answer.code == 4
    assert answer.message.startswith(f"error: storage {folder}/home/runs/no-{call} can't write plan.json: ")
    assert os.strerror(fault) in answer.message and "\n" not in answer.message
    if call != "link":  # what is kept for the next run needs none
        answer = wrong_jobs.trainwright("plan", "table.yaml")
        assert answer.code == 4 and "\n" not in answer.message
        assert (
            answer.message.startswith(f"error: {folder}/home/cache/") and os.strerror(fault) in answer.message
        )


def test_a_folder_for_temporary_files_that_is_full_is_one_sentence(folder, monkeypatch):
    def find_none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", find_none)
    answer = wrong_jobs.trainwright("submit", "job.yaml", "--id", "no-tmp")
    assert answer.code == 4 and "set TMPDIR to another one" in answer.message
    assert not (folder / "home/runs/no-tmp").exists()
