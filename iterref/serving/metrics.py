"""Metrics: counts of what a server did, in the text form that Prometheus reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from threading import Lock

# Every series with its kind and what it counts; a gauge is read when it is asked for.
SERIES = {
    "iterref_requests_total": ("counter", "requests answered, by route and status"),
    "iterref_texts_total": ("counter", "texts finished"),
    "iterref_tokens_total": ("counter", "tokens of these texts"),
    "iterref_nfe_total": ("counter", "network evaluations computed for them"),
    "iterref_reward_calls_total": ("counter", "reward calls computed for them"),
    "iterref_runs_total": ("counter", "runs of the model, each of one batch"),
    "iterref_run_seconds_total": ("counter", "seconds spent in runs"),
    "iterref_given_up_total": ("counter", "texts given up, of clients that left or that waited too long"),
    "iterref_queue_texts": ("gauge", "texts that wait for a run"),
    "iterref_running_texts": ("gauge", "texts of the run that is under way"),
}


class Metrics:
    """Counters by name and labels, which threads may add to."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._values: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Adds to a counter of `SERIES`."""
        with self._lock:
            self._values[name, tuple(sorted(labels.items()))] += value

    def text(self, gauges: Mapping[str, float]) -> str:
        """All series, with the gauges as they are now."""
        with self._lock:
            found = dict(self._values) | {(name, ()): value for name, value in gauges.items()}
        lines = list[str]()
        for name, (kind, about) in SERIES.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
            own = {labels: value for (series, labels), value in sorted(found.items()) if series == name}
            for labels, value in (own or {(): 0.0}).items():
                written = ",".join(f'{key}="{one}"' for key, one in labels)
                lines.append(f"{name}{'{' + written + '}' if written else ''} {value:.10g}")
        return "\n".join(lines) + "\n"
