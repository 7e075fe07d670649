"""What kopf calls: each event is handed on, and nothing is decided here.

Only event and index handlers, which leave neither a finalizer nor an annotation on any object. They
are coroutines, since kopf calls plain functions in threads.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import kopf

from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
from meshhook_operator.api.spec import GROUP, PLURAL, VERSION
from meshhook_operator.cluster.deployments import DeploymentView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshhook_operator.operator import Operator

_GONE = "DELETED"
_AUTOSCALERS = "autoscalers"


def make_registry(operator: Operator) -> kopf.OperatorRegistry:
    """Return the handlers that hand everything on to an operator."""
    registry = kopf.OperatorRegistry()

    # Inside of a cluster the first finds something, outside the second.
    kopf.on.login(registry=registry, id="service-account")(_login_with_service_account)
    kopf.on.login(registry=registry, id="kubeconfig")(_login_with_kubeconfig)

    # All of these are listed before the first event of a JobQueue is handled.
    @kopf.index("autoscaling", "v2", "horizontalpodautoscalers", registry=registry, id=_AUTOSCALERS)
    async def autoscalers(*, spec: kopf.Spec, namespace: str | None, name: str, **_: Any) -> Any:
        target = spec.get("scaleTargetRef", {})
        if target.get("kind") != "Deployment":
            return None
        return {ObjectKey(namespace or "", target.get("name", "")): name}

    @kopf.on.event("apps", "v1", "deployments", registry=registry)
    async def deployment(*, event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        view = DeploymentView.from_body(body)
        operator.see_deployment(view.key, None if event["type"] == _GONE else view)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def jobqueue(*, event: kopf.RawEvent, body: kopf.Body, **indices: Any) -> None:
        operator.use_autoscalers(indices[_AUTOSCALERS])
        seen = JobQueue.from_body(body)
        if event["type"] == _GONE:
            operator.lose_jobqueue(seen.key)
        else:
            operator.see_jobqueue(seen)

    return registry


def configure(settings: kopf.OperatorSettings, *, watch_silence_seconds: float) -> None:
    """Set kopf up for handlers that only watch; a silent watch is opened again after so long."""
    settings.posting.enabled = False  # events are written by the operator itself
    settings.scanning.disabled = True  # no rights on namespaces and CRDs are needed
    settings.watching.inactivity_timeout = watch_silence_seconds
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = _EndlessBackoffs()


class _EndlessBackoffs:
    """Seconds between tries: the API server may be away for long, and nothing is to end for it.

    Not a generator, since each request starts from the beginning.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.5, 1.0, 2.0), itertools.repeat(5.0))


def _login_with_service_account(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**kwargs)


def _login_with_kubeconfig(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_kubeconfig(**kwargs)
