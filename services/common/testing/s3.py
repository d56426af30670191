"""An S3 server: moto's, in a thread of this process."""

from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from obstore.store import S3Config


@contextmanager
def s3_server() -> Generator["S3Config"]:
    """Runs as long as the block; yields how `ObstoreBlobs.open` reaches it."""
    from moto.server import ThreadedMotoServer  # a test dependency: not there in production

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield {
            "endpoint": f"http://127.0.0.1:{port}",
            "region": "us-east-1",
            "access_key_id": "test",
            "secret_access_key": "test",
        }
    finally:
        server.stop()


def make_bucket(s3: "S3Config", bucket: str) -> None:
    """Which obstore cannot: buckets are their owner's business."""
    connection = HTTPConnection(urlsplit(s3.get("endpoint", "")).netloc, timeout=10)
    try:
        connection.request("PUT", f"/{bucket}")
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != HTTPStatus.OK:
        raise ValueError(f"no bucket {bucket}: HTTP {status}")
