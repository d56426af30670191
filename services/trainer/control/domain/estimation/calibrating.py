"""What a finished run leaves for the estimates of those to come."""

from services.trainer.control.domain.endings import Result
from services.trainer.control.domain.estimation.devices import Device
from services.trainer.control.domain.estimation.footprint import peak_memory
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.estimation.residuals import (
    LAST_RUNS,
    Expected,
    Run,
    corrections,
    residual,
)
from services.trainer.control.domain.estimation.throughput import tokens_per_second
from services.trainer.control.domain.job import JobSpec, TuningJob
from services.trainer.control.domain.ports import Unit
from services.trainer.control.domain.settings import Backend


async def learn(unit: Unit, job: TuningJob, result: Result) -> None:
    """Keeps by how much the formulas missed what this job, which has just succeeded, took."""
    offer = await unit.nodes.find(job.node)
    if offer is None or offer.device is None or not offer.device.model:
        return
    proposal = _proposal(job.spec, offer.device)
    if proposal is None or not await _was_to_fit(unit, proposal):
        return
    run = Run(job.name, proposal.method.kind, offer.device.model, await unit.now())
    found = residual(run, result, _expected(proposal))
    if found is not None:
        await unit.residuals.add(found)


def _proposal(spec: JobSpec, device: Device) -> Proposal | None:
    """None where the formulas do not hold, which are of one device, or have nothing to be made
    of."""
    if spec.sizes is None or spec.settings.backend is not Backend.BUILTIN:
        return None
    if spec.settings.requirements.device_count > 1:
        return None
    return spec.sizes.proposal(spec.settings, device)


async def _was_to_fit(unit: Unit, proposal: Proposal) -> bool:
    """Whether the job was expected to have room as it asked. One that was not went on in smaller
    parts: by its figures it would have fitted."""
    device = proposal.device
    known = await unit.residuals.last(proposal.method.kind, device.model, LAST_RUNS)
    peak = peak_memory(proposal).times(corrections(known).peak_ratio)
    return not device.memory_bytes or peak.total_bytes <= device.memory_bytes


def _expected(proposal: Proposal) -> Expected:
    """By the formulas alone: corrected ones would learn from themselves."""
    return Expected(peak_memory(proposal).total_bytes, tokens_per_second(proposal))
