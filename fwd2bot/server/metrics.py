"""Figures for Prometheus. Alone imports prometheus_client."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fwd2bot.server.batching import Worker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Of one server: requests by route and status, their seconds, and what the worker counts."""

    def __init__(self, worker: Worker) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_OfWorker(worker))
        self._requests = Counter(
            "fwd2bot_requests", "Requests that were answered.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "fwd2bot_request_seconds",
            "From a request to the end of its answer.",
            ("route",),
            registry=self._registry,
            buckets=SECONDS,
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _OfWorker(Collector):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        worker = self._worker
        yield CounterMetricFamily("fwd2bot_tokens", "Tokens of answers.", value=worker.tokens)
        yield CounterMetricFamily("fwd2bot_batch_steps", "Steps of the running batch.", value=worker.steps)
        yield CounterMetricFamily("fwd2bot_batch_rows", "Answers in the running batch, over all steps.", worker.rows)
        yield GaugeMetricFamily("fwd2bot_running", "Answers in the running batch now.", value=worker.running)
        yield GaugeMetricFamily("fwd2bot_waiting", "Jobs that wait for the model now.", value=worker.waiting)
