"""What a finished run leaves for the estimates of those to come."""

from services.trainer.control.domain.endings import Result
from services.trainer.control.domain.estimation.devices import Device
from services.trainer.control.domain.estimation.footprint import peak_memory
from services.trainer.control.domain.estimation.residuals import Expected, Run, residual
from services.trainer.control.domain.estimation.throughput import tokens_per_second
from services.trainer.control.domain.job import JobSpec, TuningJob
from services.trainer.control.domain.ports import Unit
from services.trainer.control.domain.settings import Backend


async def learn(unit: Unit, job: TuningJob, result: Result) -> None:
    """Keeps by how much the formulas missed what this job, which has just succeeded, took."""
    offer = await unit.nodes.find(job.node)
    if offer is None or offer.device is None:
        return
    expected = _expected(job.spec, offer.device)
    if expected is None:
        return
    method = job.spec.settings.method.kind
    found = residual(Run(job.name, method, offer.device.model, await unit.now()), result, expected)
    if found is not None:
        await unit.residuals.add(found)


def _expected(spec: JobSpec, device: Device) -> Expected | None:
    """By the formulas alone: corrected ones would learn from themselves."""
    if spec.sizes is None or spec.settings.backend is not Backend.BUILTIN:
        return None
    proposal = spec.sizes.proposal(spec.settings, device)
    return Expected(peak_memory(proposal).total_bytes, tokens_per_second(proposal))
