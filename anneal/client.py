"""The client: every service under one roof."""

import os
from collections.abc import Mapping
from functools import cached_property
from types import TracebackType
from typing import Self

import grpc

from anneal.addresses import Addresses, find_addresses
from anneal.connection import Connection
from anneal.datasets import Datasets
from anneal.experiments import Experiments
from anneal.generation import Inference
from anneal.jobs import Jobs
from anneal.models import Models
from anneal.names import Names
from anneal.nodes import Nodes
from anneal.quotas import Quotas
from anneal.sweeps import Sweeps
from anneal.transport import Tls, open_blocking_channel


class Client:
    """Calls the services of an Anneal installation. Thread-safe; close it, or use `with`.

        with Client() as client:
            version = client.datasets.upload(Path("support.jsonl"), "support")
            job = client.jobs.wait(client.jobs.create(version.name, "tiny-base").name)
            print(client.inference.generate(job.model_version, "Where is my parcel?").text)

    Resource names may be short (see `anneal.names`) and then belong to `project`. What is not given
    comes from the environment: `ANNEAL_<SERVICE>_ADDRESS`, or the addresses of an `anneal up` that
    runs on `ANNEAL_DATA_DIR`; `ANNEAL_API_KEY`; `ANNEAL_TLS_CA`, `ANNEAL_TLS_CERT` and
    `ANNEAL_TLS_KEY`. Every call that fails raises an AnnealError. Calls have a deadline (30 s,
    more where a model answers) and are repeated when the service is away for a moment; mutations
    carry a request id, so that a repeat has no second effect.
    """

    def __init__(
        self,
        addresses: Addresses | None = None,
        *,
        project: str = "default",
        api_key: str | None = None,
        tls: Tls | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.addresses = addresses or find_addresses(environment)
        self.names = Names(project)
        self._api_key = api_key or environment.get("ANNEAL_API_KEY")
        self._tls = tls or Tls.find(environment)
        self._channels: list[grpc.Channel] = []

    @cached_property
    def datasets(self) -> Datasets:
        return Datasets(self._connect(self.addresses.dataset), self.names)

    @cached_property
    def jobs(self) -> Jobs:
        return Jobs(self._connect(self.addresses.trainer), self.names)

    @cached_property
    def sweeps(self) -> Sweeps:
        return Sweeps(self._connect(self.addresses.trainer), self.names)

    @cached_property
    def nodes(self) -> Nodes:
        return Nodes(self._connect(self.addresses.trainer), self.names)

    @cached_property
    def quotas(self) -> Quotas:
        return Quotas(self._connect(self.addresses.trainer), self.names)

    @cached_property
    def models(self) -> Models:
        return Models(self._connect(self.addresses.registry), self.names)

    @cached_property
    def inference(self) -> Inference:
        return Inference(self._connect(self.addresses.inference), self.names)

    @cached_property
    def experiments(self) -> Experiments:
        return Experiments(self._connect(self.addresses.abtest), self.names)

    def close(self) -> None:
        """Closes the channels; calls in flight are cancelled."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open_channel(self, address: str) -> grpc.Channel:
        """Opens another channel with this client's key and TLS; the caller closes it."""
        return open_blocking_channel(address, tls=self._tls, api_key=self._api_key)

    def _connect(self, address: str) -> Connection:
        channel = self.open_channel(address)
        self._channels.append(channel)
        return Connection(address, channel)
