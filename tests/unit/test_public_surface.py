"""What people's code and scripts lean on changes only where its change is seen."""

import public_surface


def test_the_public_names_verbs_and_exit_codes_are_those_that_are_pinned():
    pinned = public_surface.PINNED.read_text().splitlines()
    now = public_surface.surface().splitlines()
    gone, new = sorted(set(pinned) - set(now)), sorted(set(now) - set(pinned))
    assert not gone and not new, (
        f"gone: {gone}; new: {new}; if that is meant, run scripts/public_surface.py and say so in CHANGELOG.md"
    )


def test_the_command_line_and_the_readme_name_each_exit_code():
    from orchestrator.cli.app import app

    codes = {line.split(":")[0].removeprefix("exit code ") for line in public_surface.exit_code_lines()}
    for text in (app.info.epilog, (public_surface.PINNED.parents[2] / "README.md").read_text()):
        listed = text.split("Exit codes:")[1].split(".")[0]
        assert codes <= {part.split()[0] for part in listed.split(",")}
