"""A real Prometheus on loopback that scrapes what it is told to."""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import yaml

from support.prometheus_tools import tool
from support.scraping import ask
from support.waiting import eventually

_LISTENING = re.compile(r'msg="Listening on" address=127\.0\.0\.1:(\d+)')


@dataclass
class PrometheusServer:
    """Prometheus in a process of its own.

    Args:
        folder: where its configuration, its data and its log go.
        rules: rule files to evaluate.
        interval_seconds: from one scrape, and from one evaluation, to the next. Default 1.
    """

    folder: Path
    rules: list[Path] = field(default_factory=list)
    interval_seconds: int = 1
    port: int = 0
    _targets: list[dict[str, Any]] = field(default_factory=list)
    _process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start, and wait until it listens."""
        configuration = {
            "global": {
                "scrape_interval": f"{self.interval_seconds}s",
                "evaluation_interval": f"{self.interval_seconds}s",
            },
            "rule_files": [str(rule) for rule in self.rules],
            "scrape_configs": [
                {
                    "job_name": "meshhook",
                    "file_sd_configs": [{"files": [str(self._targets_file)]}],
                }
            ],
        }
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        self._write_targets()
        log = self.folder / "prometheus.log"
        with log.open("wb") as stream:
            self._process = await asyncio.create_subprocess_exec(
                tool("prometheus"),
                f"--config.file={self.folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                "--enable-feature=exemplar-storage",
                stdout=stream,
                stderr=stream,
            )
        found = await eventually(
            lambda: _LISTENING.search(log.read_text()), 120, message="Prometheus listens"
        )
        self.port = int(found[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; its data stay in the folder."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            await self._process.wait()

    def add_target(self, port: int, **labels: str) -> None:
        """Scrape a port of this machine from now on, with these labels on its series."""
        self._targets.append({"targets": [f"127.0.0.1:{port}"], "labels": labels})
        self._write_targets()

    async def query(self, expr: str, *, time: float | None = None) -> list[dict[str, Any]]:
        """Return the series of an instant query; those that are not a number are left out.

        Raises:
            ValueError: if Prometheus refuses the query.
        """
        found = await self._get("query", query=expr, **({} if time is None else {"time": time}))
        if found["resultType"] == "scalar":
            return [{"metric": {}, "value": found["result"]}]
        return [each for each in found["result"] if not math.isnan(float(each["value"][1]))]

    async def query_range(
        self, expr: str, start: float, end: float, step_seconds: float
    ) -> list[dict[str, Any]]:
        """Return the series of a range query, without values that are not a number.

        Raises:
            ValueError: if Prometheus refuses the query.
        """
        found = await self._get("query_range", query=expr, start=start, end=end, step=step_seconds)
        series = []
        for each in found["result"]:
            values = [point for point in each["values"] if not math.isnan(float(point[1]))]
            if values:
                series.append(each | {"values": values})
        return series

    async def _get(self, path: str, **parameters: Any) -> dict[str, Any]:
        answer = await asyncio.to_thread(ask, self.port, f"/api/v1/{path}?{urlencode(parameters)}")
        body = json.loads(answer.body)
        if body["status"] != "success":
            raise ValueError(f"{body['error']}: {parameters['query']}")
        data: dict[str, Any] = body["data"]
        return data

    @property
    def _targets_file(self) -> Path:
        return self.folder / "targets.json"

    def _write_targets(self) -> None:
        # A rename, so that it never reads half a file.
        draft = self.folder / "targets.draft"
        draft.write_text(json.dumps(self._targets))
        draft.rename(self._targets_file)
