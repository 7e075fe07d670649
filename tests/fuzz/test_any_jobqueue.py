"""Whatever a JobQueue says: it is refused, or works, or has a condition that names the field."""

from __future__ import annotations

import asyncio
import json
import math
import re
from pathlib import Path
from typing import Any, cast

import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from meshhook.queue_config import QueueSettings
from meshhook_operator.api.jobqueue import JobQueue
from meshhook_operator.metrics import OperatorMetrics
from meshhook_operator.reconciliation.autoscaler import scaling_rules, tick_seconds
from meshhook_operator.reconciliation.reconciler import JobQueueReconciler
from meshhook_operator.reconciliation.sources import Source
from meshhook_operator.scaling import Failure
from meshhook_operator.workers.manifests import worker_deployment
from support.crd_schemas import RULES, refusals, rules_of, stored, values
from support.fuzzing import examples
from support.hostile import TEXTS, is_safe_line
from support.jobqueues import jobqueue_body
from support.recorded_cluster import RecordedCluster

FILE = Path(__file__).parents[2] / "operator" / "crds" / "jobqueues.meshhook.io.yaml"
(VERSION,) = yaml.safe_load(FILE.read_text())["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"]

CHARACTERS = st.characters(exclude_categories=["Cs"])
"""What JSON in UTF-8 can bring."""
SENT_TEXTS = st.text(CHARACTERS, max_size=20) | st.sampled_from(
    ["", "\0", "\x1b[2J", "a\u202eb", "\U000e0041", "x" * 2_000, "a:b\n", "\u00a0:\u3000"]
)


def _deep() -> Any:
    deep: Any = None
    for _ in range(500):
        deep = {"a": [deep]}
    return deep


HUGE = st.just(1_000_000).map(lambda length: "x" * length)
SENT: st.SearchStrategy[Any] = (
    st.sampled_from([None, True, False, [], {}, [None], [[]], {"": None}])
    | st.sampled_from([0, -1, 2**31, 2**63, -(2**63) - 1, 10**400, -0.0, 0.5, 5e-324, 1e308])
    | st.sampled_from(["", "1", "-1", "1.0", "true", "null", "\0"])
    | HUGE
    | st.builds(_deep)
)
"""Values that JSON in UTF-8 can bring."""
ODD = SENT | st.sampled_from([10**5_000, math.inf, math.nan, "\ud800", {"\ud800": "\ud800"}, b"x"])


def anything(*, sent: bool) -> st.SearchStrategy[Any]:
    """Return odd values, alone and in others; of those that can be sent, or of all."""
    odd, texts = (SENT, SENT_TEXTS) if sent else (ODD, TEXTS)
    return odd | texts | st.lists(odd, max_size=2) | st.dictionaries(texts, odd, max_size=2)


def _in_order(spec: dict[str, Any], *, owns: bool) -> dict[str, Any]:
    """Return a spec that mostly keeps the rules."""
    kept, other = ("worker", "deploymentRef") if owns else ("deploymentRef", "worker")
    spec = {name: part for name, part in spec.items() if name != other}
    if owns:
        worker = dict(spec.get(kept, {"image": "i", "handler": "a:b"}))
        if ("handler" in worker) == ("app" in worker):
            worker.pop("app", None)
            worker.setdefault("handler", "a:b")
        spec[kept] = worker
    else:
        spec.setdefault(kept, {"name": "workers"})
    if "keys" in spec:
        spec["keys"] = _keys_in_order(spec["keys"])
    retry = dict(spec.get("retry", {}))
    retry["backoffBaseMs"], retry["backoffMaxMs"] = sorted(
        [retry.get("backoffBaseMs", 0), retry.get("backoffMaxMs", 300_000)]
    )
    scaling = dict(spec["scaling"])
    low, high = sorted([scaling.get("minReplicas", 1), scaling["maxReplicas"]])
    scaling |= {"minReplicas": low, "maxReplicas": max(1, high)}
    return spec | {"retry": retry, "scaling": scaling}


def _keys_in_order(keys: dict[str, Any]) -> dict[str, Any]:
    if not keys.get("enabled", True):
        return {"enabled": False}
    overrides = [each for each in keys.get("overrides", ()) if len(each) > 1]
    return keys | {"overrides": overrides}


SPECS = values(SCHEMA, SENT_TEXTS)
VALID = st.builds(lambda spec, owns: _in_order(spec, owns=owns), SPECS, owns=st.booleans())


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a value, as what holds it and its key there."""
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    own = [(value, key) for key in list(keys)]
    return own + [each for _, key in own for each in _places(value[key])]


@st.composite
def mutated(draw: st.DrawFn, *, sent: bool) -> Any:
    """Return a valid spec with up to three things wrong in it."""
    spec = json.loads(json.dumps(draw(VALID)))
    places = _places(spec)
    odd, texts = (SENT, SENT_TEXTS) if sent else (ODD, TEXTS)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from([*places, (None, None)]))
        how = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if holder is None:
            return draw(anything(sent=sent))
        if how == "replace" or isinstance(holder, list):
            holder[key] = draw(anything(sent=sent))
        elif how == "remove":
            holder.pop(key, None)
        else:
            holder[draw(texts | st.just("queue_name") | HUGE)] = draw(odd)
    return spec


def take(spec: Any, status: Any = None) -> JobQueue:
    """Return a JobQueue with that spec."""
    return JobQueue.from_body(jobqueue_body() | {"spec": spec, "status": status})


def check_named(found: JobQueue) -> None:
    """Check that a JobQueue works, or says on one short line which field is in the way."""
    if found.spec is None:
        assert found.problem.startswith("spec")
        assert ": " in found.problem
        assert is_safe_line(found.problem)
        assert len(found.problem) < 1_500
    else:
        assert not found.problem
        assert found.deployment_key is not None


def has_odd_space(found: JobQueue) -> bool:
    """Whether only the model refuses a handler or app: to an API server spaces are ASCII."""
    return re.match(r"spec.worker.(handler|app): String should match", found.problem) is not None


async def _ready(found: JobQueue) -> dict[str, Any]:
    """Return the condition Ready that a reconciler writes while the database is away."""
    cluster = RecordedCluster()
    reconciler = JobQueueReconciler(
        take(stored(SCHEMA, jobqueue_body()["spec"])),
        cluster=cast("Any", cluster),
        metrics=OperatorMetrics(CollectorRegistry()),
        find_conflict=lambda _: None,
        clock=lambda: 1_000.0,
    )
    reconciler.on_jobqueue_changed(found)
    away = Failure(reason="SourceUnavailable", message="away")
    for _ in range(2):  # one failure alone is worth no word
        await reconciler.reconcile(away, Source(None, None))
    condition = cluster.condition(found.key)
    assert condition is not None
    return condition


def test_every_rule_of_the_schema_has_its_counterpart():
    """One that is new is checked here once it is listed."""
    assert set(rules_of(SCHEMA)) == set(RULES)


@examples(150)
@given(spec=VALID | SPECS)
def test_what_the_schema_takes_works(spec):
    """A spec that an API server stores has settings, rules and a Deployment that can be sent."""
    spec = stored(SCHEMA, spec)
    found = take(spec)
    why = refusals(SCHEMA, spec)
    if why:
        # The rules alone are in the way, and the operator knows them as well.
        assert found.problem, why
        return check_named(found)
    if has_odd_space(found):
        return check_named(found)
    assert found.spec is not None, found.problem
    assert QueueSettings(**found.spec.queue_settings)
    assert scaling_rules(found.spec)
    assert tick_seconds(found.spec) >= 1
    if found.owns_deployment:
        json.dumps(worker_deployment(found, replicas=1), allow_nan=False).encode()
    return None


@examples(250)
@given(spec=mutated(sent=True))
def test_what_the_schema_would_store_works(spec):
    """Of a spec with faults: if the schema lets it through, the model takes it too."""
    kept = stored(SCHEMA, spec)
    found = take(kept)
    check_named(found)
    if found.spec is None:
        assert has_odd_space(found) or refusals(SCHEMA, kept), found.problem


@examples(120)
@given(spec=mutated(sent=False), status=anything(sent=False))
def test_a_spec_that_got_past_the_schema_is_named(spec, status):
    """A JobQueue is taken in whatever it holds, and its condition names the field."""
    found = take(spec, status)
    check_named(found)
    condition = asyncio.run(_ready(found))
    assert condition["status"] == "False"
    assert is_safe_line(condition["message"])
    if found.spec is None:
        assert condition["reason"] == "InvalidSpec"
        assert condition["message"].startswith("spec")
    else:
        assert condition["reason"] in {"SourceUnavailable", "DeploymentNotFound"}
