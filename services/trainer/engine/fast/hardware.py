"""What the hardware multiplies fast, told from its capabilities: a timing would differ from run
to run, and with it the results."""

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products have instructions of their own there, and so beat float32 ones.

    CUDA from compute capability 8.0 (Ampere) on; x86 with AVX512-BF16 or AMX.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return False
