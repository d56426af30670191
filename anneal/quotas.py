"""Quotas: what a project may take of the queue, and what it has taken."""

from google.protobuf.field_mask_pb2 import FieldMask

from anneal.connection import Connection, new_request_id
from anneal.names import Names
from anneal.trainer.v1.queue_service_pb2 import GetQuotaRequest, Quota, UpdateQuotaRequest
from anneal.trainer.v1.queue_service_pb2_grpc import QueueServiceStub


class Quotas:
    """`client.quotas`. A quota goes by its project, by default the client's."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._rpc = QueueServiceStub(connection.channel)

    def get(self, project: str = "") -> Quota:
        request = GetQuotaRequest(name=self._names.quota(project))
        return self._connection.ask(self._rpc.GetQuota, request)

    def set(
        self,
        project: str = "",
        *,
        max_running_jobs: int | None = None,
        max_queued_jobs: int | None = None,
        max_device_hours_a_day: float | None = None,
        weight: float | None = None,
    ) -> Quota:
        """Sets what is given, and leaves the rest as it is. 0 is no limit; a project of weight 2
        gets twice as much of the devices as one of weight 1."""
        given = {
            "max_running_jobs": max_running_jobs,
            "max_queued_jobs": max_queued_jobs,
            "max_device_hours_a_day": max_device_hours_a_day,
            "weight": weight,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        if not fields:  # an empty mask would set everything
            return self.get(project)
        quota = Quota(name=self._names.quota(project))
        for name, value in fields.items():
            setattr(quota, name, value)
        request = UpdateQuotaRequest(
            quota=quota, update_mask=FieldMask(paths=fields), request_id=new_request_id()
        )
        return self._connection.ask(self._rpc.UpdateQuota, request)
