"""What an engine imports, after what libraries want to know before they are: see engines.py."""

from importlib import import_module

from services.trainer.engine.process import configure_libraries, quiet_libraries

configure_libraries(1)
quiet_libraries()
for module in ("job", "loop", "run", "team"):
    import_module(f"services.trainer.engine.{module}")
