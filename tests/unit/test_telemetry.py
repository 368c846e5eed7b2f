from llmobs.telemetry.instruments import METRICS, Telemetry


def _samples(telemetry: Telemetry, prefix: str) -> dict[str, float]:
    lines = telemetry.exposition().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line.startswith(prefix))
    }


def test_a_bucket_holds_its_upper_bound_and_all_below_it() -> None:
    telemetry = Telemetry()
    for seconds in (0.00005, 0.0001, 0.00011, 20.0):
        telemetry.request("GET", "/x", 200, seconds)
    found = _samples(telemetry, "http_request_duration_seconds")
    bucket = 'http_request_duration_seconds_bucket{le="%s",method="GET",path="/x"}'
    assert found[bucket % "0.0001"] == 2
    assert found[bucket % "0.00025"] == 3
    assert found[bucket % "10.0"] == 3
    assert found[bucket % "+Inf"] == 4
    assert found['http_request_duration_seconds_count{method="GET",path="/x"}'] == 4
    assert found['http_request_duration_seconds_sum{method="GET",path="/x"}'] == 20.00026


def test_attributes_are_kept_apart() -> None:
    telemetry = Telemetry()
    telemetry.request("GET", "/x", 200, 0.1)
    telemetry.request("POST", "/x", 200, 0.1)
    counts = _samples(telemetry, "http_request_duration_seconds_count")
    assert sorted(counts.values()) == [1, 1]


def test_every_histogram_is_exported_under_its_declared_name_and_buckets() -> None:
    telemetry = Telemetry()
    histograms = [metric for metric in METRICS.values() if metric.kind == "histogram"]
    for metric in histograms:
        telemetry._histograms.record(metric.name, tuple("x" for _ in metric.attributes), 1.0)
    for metric in histograms:
        found = _samples(telemetry, f"{metric.exported}_bucket")
        assert len(found) == len(metric.buckets) + 1, metric.name
