"""Two methods of tuning that PEFT lacks, as tuners in PEFT's own form and file format.

Importing this package makes them known to PEFT: from then on `peft.get_peft_model(base, config)`
takes their configurations, and `peft.PeftModel.from_pretrained(base, directory)` reads what
`save_pretrained` wrote.
"""

from services.tuners.bottleneck import BottleneckConfig, BottleneckLayer, BottleneckModel
from services.tuners.prefix import PrefixConfig, PrefixModel
from services.tuners.prefix_layer import PrefixLayer
from services.tuners.registration import TunerType, register

register(TunerType.BOTTLENECK, BottleneckConfig, BottleneckModel)
register(TunerType.KV_PREFIX, PrefixConfig, PrefixModel)

__all__ = [
    "BottleneckConfig",
    "BottleneckLayer",
    "BottleneckModel",
    "PrefixConfig",
    "PrefixLayer",
    "PrefixModel",
    "TunerType",
]
