"""hypothesis while mutants are tried: the same examples each time, and the first failure is enough."""

from hypothesis import Phase, settings

settings.register_profile(
    "mutants", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
)
