import re

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.clusters.shared.safe_names import label_value, rayjob_name, submission_id

ids = st.text(min_size=1, max_size=80) | st.from_regex(r"[a-z0-9-]{1,60}", fullmatch=True)


def test_an_ordinary_id_stays_as_it_is():
    assert rayjob_name("digits-abcdefgh", 1) == "digits-abcdefgh"
    assert rayjob_name("digits-abcdefgh", 2) == "digits-abcdefgh-2" == submission_id("digits-abcdefgh", 2)


def test_what_kubernetes_would_refuse_keeps_a_readable_part():
    assert re.fullmatch(r"run-2024-tests-abcdefgh-[0-9a-f]{10}", rayjob_name("2024-tests-abcdefgh", 1))
    assert rayjob_name("x" * 49, 1).startswith("x" * 36 + "-")


@given(ids, st.integers(1, 30))
def test_every_name_is_a_dns_label_of_at_most_47(run_id, launch):
    name = rayjob_name(run_id, launch)
    assert len(name) <= 47
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)


@given(st.lists(ids, min_size=2, max_size=20, unique=True))
def test_two_ids_never_share_a_name_or_a_label(run_ids):
    assert len({rayjob_name(run_id, 1) for run_id in run_ids}) == len(run_ids)
    assert len({label_value(run_id) for run_id in run_ids}) == len(run_ids)


@given(ids)
def test_every_label_value_is_one(text):
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", label_value(text))
