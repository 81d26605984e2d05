import re
from pathlib import Path

import pytest
import written_pages

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", written_pages.pages(), ids=lambda page: page.name)
def test_pages_written_from_the_code_are_current(page):
    assert page.read_text() == written_pages.pages()[page](), "run make reference"


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_that_the_readme_names_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert named <= targets, named - targets
