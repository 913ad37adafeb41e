"""What /metrics shows, in Prometheus' text format."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eclip.web.store import Store

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.3, 0.6, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class Counts:
    """Requests, seconds, queue and memory of one server."""

    def __init__(self, store: Store) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("eclip_requests", "Answers by address and status.", ["address", "status"], **own)
        self.seconds = Histogram("eclip_seconds", "Seconds by address.", ["address"], buckets=BUCKETS, **own)
        self.batches = Histogram("eclip_batch_images", "Images in a forward pass.", buckets=(1, 2, 4, 8), **own)
        Gauge("eclip_images", "Uploaded images in memory.", **own).set_function(store.__len__)
        Gauge("eclip_image_bytes", "Bytes of images and encodings.", **own).set_function(lambda: store.bytes)
        self.waiting = Gauge("eclip_waiting", "Requests that wait for the model.", **own)


class Counting:
    """An ASGI application that counts the answers of another one."""

    def __init__(self, app: ASGIApp, counts: Counts) -> None:
        self.app, self.counts = app, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one answer by the address as it is declared, so that ids do not multiply the series."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            address = getattr(scope.get("route"), "path", "other") or "other"
            self.counts.requests.labels(address, str(status)).inc()
            self.counts.seconds.labels(address).observe(time.perf_counter() - start)
