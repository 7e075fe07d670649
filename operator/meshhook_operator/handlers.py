"""What kopf calls: each event is passed to the operator, and nothing is decided here.

Only event and index handlers are used, since they leave no finalizer or annotation on any object.
They are coroutines, because kopf calls plain functions in threads.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import kopf

from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
from meshhook_operator.api.jobschedule import JobSchedule
from meshhook_operator.api.kind import GROUP, PLURAL, SCHEDULE_PLURAL, VERSION
from meshhook_operator.cluster.deployments import DeploymentView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshhook_operator.operator import Operator

_DELETED = "DELETED"
_HPAS = "hpas"


def make_registry(operator: Operator) -> kopf.OperatorRegistry:
    """Return the handlers that pass everything to an operator."""
    registry = kopf.OperatorRegistry()

    # The first works inside a cluster, the second outside.
    kopf.on.login(registry=registry, id="service-account")(_login_with_service_account)
    kopf.on.login(registry=registry, id="kubeconfig")(_login_with_kubeconfig)

    # All of these are listed before the first event of a JobQueue is handled.
    @kopf.index("autoscaling", "v2", "horizontalpodautoscalers", registry=registry, id=_HPAS)
    async def hpas(*, spec: kopf.Spec, namespace: str | None, name: str, **_: Any) -> Any:
        target = spec.get("scaleTargetRef", {})
        if target.get("kind") != "Deployment":
            return None
        return {ObjectKey(namespace or "", target.get("name", "")): name}

    @kopf.on.event("apps", "v1", "deployments", registry=registry)
    async def deployment(*, event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        view = DeploymentView.from_body(body)
        operator.on_deployment_changed(view.key, None if event["type"] == _DELETED else view)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def jobqueue(*, event: kopf.RawEvent, body: kopf.Body, **indices: Any) -> None:
        operator.use_hpas(indices[_HPAS])
        seen = JobQueue.from_body(body)
        if event["type"] == _DELETED:
            operator.on_jobqueue_deleted(seen.key, seen.uid)
        else:
            operator.on_jobqueue_changed(seen)

    @kopf.on.event(GROUP, VERSION, SCHEDULE_PLURAL, registry=registry)
    async def jobschedule(*, event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        seen = JobSchedule.from_body(body)
        if event["type"] == _DELETED:
            operator.jobschedules.remove(seen.key, seen.uid)
        else:
            operator.jobschedules.update(seen)

    return registry


def configure(settings: kopf.OperatorSettings, *, watch_silence_seconds: float) -> None:
    """Set kopf up for handlers that only watch.

    Args:
        settings: kopf's own.
        watch_silence_seconds: how long a watch may be silent until it is opened again.
    """
    settings.posting.enabled = False  # the operator writes its events itself
    settings.scanning.disabled = True  # no rights on namespaces and CRDs are needed
    settings.watching.inactivity_timeout = watch_silence_seconds
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = _EndlessBackoffs()


class _EndlessBackoffs:
    """Seconds between retries, without end: an outage of the API server must not end the operator.

    A class rather than a generator, since each request iterates from the beginning.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.5, 1.0, 2.0), itertools.repeat(5.0))


def _login_with_service_account(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**kwargs)


def _login_with_kubeconfig(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_kubeconfig(**kwargs)
