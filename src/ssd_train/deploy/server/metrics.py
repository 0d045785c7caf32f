"""Metrics of the server for Prometheus."""

from __future__ import annotations

from typing import Callable

from ssd_train.data.structures import ClassNames
from ssd_train.errors import require_extra

with require_extra("serve"):
    import prometheus_client as prometheus

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # upper bounds of the buckets

prometheus.disable_created_metrics()  # they double the series, and nothing reads them


class Metrics:
    """Metrics of one server, in their own registry.

    Attributes:
        seconds: histogram of the time from headers to response, for requests with status 200.
        network: histogram of the network's part of that time.

    Args:
        engine: name of the inference engine.
        class_names: classes of the model.
        side: input size of the model in pixels.
        in_flight: returns the number of requests in progress.
    """

    def __init__(self, engine: str, class_names: ClassNames, side: int, in_flight: Callable[[], float]) -> None:
        self._registry = registry = prometheus.CollectorRegistry()
        self._answered = prometheus.Counter(
            "ssd_train_requests",
            "Requests to /invocations that were answered, by HTTP status.",
            ["status"],
            registry=registry,
        )
        self._answered.labels("200")
        self.seconds = prometheus.Histogram(
            "ssd_train_request_seconds", "Seconds from a request to its answer.", buckets=SECONDS, registry=registry
        )
        self.network = prometheus.Histogram(
            "ssd_train_network_seconds", "Seconds of the network for an image.", buckets=SECONDS, registry=registry
        )
        waiting = prometheus.Gauge("ssd_train_requests_in_flight", "Requests being answered.", registry=registry)
        waiting.set_function(in_flight)
        model = prometheus.Info(
            "ssd_train_model", "Engine, number of classes and input of the model.", registry=registry
        )
        model.info({"engine": engine, "classes": str(len(class_names)), "side": str(side)})
        prometheus.ProcessCollector(registry=registry)

    def count(self, status: int) -> None:
        """Count a response of /invocations."""
        self._answered.labels(str(status)).inc()

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return prometheus.generate_latest(self._registry)
