"""The families' cases are shared with the contract of engines."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))
