"""Programs for another interpreter: that of a tool, which has torch and transformers in versions of
its own and knows nothing of Anneal. They are started as files and import only each other."""

from pathlib import Path

INSIDE = Path(__file__).parent
