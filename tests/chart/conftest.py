"""Nothing but the search path: pytest puts this folder on it, so that tests import ``chartkit``."""
