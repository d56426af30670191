from services.common.migrations import run_env
from services.dataset.adapters.sql import Row

run_env(Row.metadata)
