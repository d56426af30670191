"""The inference service. Composition root."""

from anneal.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from anneal.transport import Tls
from services.common import logs, process, settings
from services.common.blobs import ObstoreBlobs
from services.common.channels import open_channel
from services.common.directories import Directories
from services.common.server import Service, serve
from services.inference.adapters.local_backend import LocalBackend
from services.inference.adapters.registry import RegistryCatalog
from services.inference.config import InferenceConfig
from services.inference.domain.answers import Answers
from services.inference.servicer import InferenceServicer

GENERATION_DEADLINE_S = 600.0


async def run() -> None:
    config = settings.read(InferenceConfig)
    logs.configure(config.log_level)
    blobs = ObstoreBlobs.open(config.blobs_url)
    tls = Tls(ca_file=config.tls_ca) if config.tls_ca else None
    registry = open_channel(config.registry_address, tls=tls, api_key=config.api_key or None)
    backend = LocalBackend(Directories(blobs, config.cache_dir), config.threads)
    answers = Answers(RegistryCatalog(RegistryServiceStub(registry)), backend)
    service = Service(
        "anneal.inference.v1.InferenceService",
        add_InferenceServiceServicer_to_server,
        InferenceServicer(answers),
        deadlines_s={"GenerateText": GENERATION_DEADLINE_S},
    )
    try:
        await serve(config.server, [service], {"blobs": blobs.ping})
    finally:
        await backend.close()
        await registry.close()


if __name__ == "__main__":
    process.main(run)
