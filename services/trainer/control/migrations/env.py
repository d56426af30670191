from services.common.migrations import run_env
from services.trainer.control.adapters.tables import Row

run_env(Row.metadata)
