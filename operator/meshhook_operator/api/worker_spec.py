"""`spec.worker` and `spec.deploymentRef`: the Deployment that runs the workers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from meshhook_operator.api.fields import ATOMIC, BY_NAME, ObjectName, Part, Quantity, Untyped, rules

WORKER_ENVIRONMENT = ("MESHHOOK_DATABASE_URL", "MESHHOOK_POOLED", "MESHHOOK_METRICS_PORT")
"""What the operator sets itself."""

_Attribute = Annotated[str, Field(max_length=512, pattern=r"^[^\s:]+:[^\s:]+$")]


class EnvVar(Part):
    """An environment variable of the worker."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """The name. MESHHOOK_DATABASE_URL, MESHHOOK_POOLED and MESHHOOK_METRICS_PORT are refused: the
    operator sets them itself."""
    value: str | None = None
    """The value."""
    value_from: Untyped | None = None
    """Where the value comes from, as in a pod."""


class EnvFromSource(Part):
    """A ConfigMap or Secret whose keys all become environment variables, as in a pod."""

    prefix: str | None = None
    """A prefix for the name of each variable."""
    config_map_ref: Untyped | None = None
    """The ConfigMap."""
    secret_ref: Untyped | None = None
    """The Secret."""


class LocalObject(Part):
    """An object in the namespace of the JobQueue."""

    name: ObjectName
    """The name of the object."""


class ResourceRequirements(Part):
    """Resource requests and limits of the worker's container, as in a pod."""

    requests: dict[str, Quantity] | None = None
    """What is reserved for the container, by resource."""
    limits: dict[str, Quantity] | None = None
    """The most that the container may use, by resource."""
    claims: Annotated[list[Untyped], Field(json_schema_extra=ATOMIC)] | None = None
    """Claims of dynamic resources, as in a pod."""


class Toleration(Part):
    """A taint that the worker's pods tolerate, as in a pod."""

    key: str | None = None
    """The taint's key. Empty matches every key."""
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = None
    """How the taint's value is compared. Default Equal."""
    value: str | None = None
    """The value to compare with."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect. Empty matches every effect."""
    toleration_seconds: int | None = None
    """How long a NoExecute taint is tolerated, in seconds. Default: for ever."""


class WorkerSpec(Part):
    """The Deployment that the operator creates: `meshhook worker` in an image of yours."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.handler) != has(self.app)", "give exactly one of handler and app")
        )
    )

    image: Annotated[str, Field(min_length=1, max_length=1024)]
    """The image, with your code and `meshhook-queue` installed."""
    handler: _Attribute | None = None
    """The function that handles a job, as module:function. Give either this or app."""
    app: _Attribute | None = None
    """The meshhook.App that declares the handler of this queue, as module:app, for example
    shop.jobs:app. Leave the database URL out of its code: it comes from database.secretRef. Give
    either this or handler."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 50
    """How many jobs a pod runs at the same time. Default 50."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled. Default: Always for the tag latest, otherwise IfNotPresent."""
    image_pull_secrets: Annotated[
        list[LocalObject], Field(default_factory=list, json_schema_extra=BY_NAME)
    ]
    """Secrets with the credentials for pulling the image."""
    resources: ResourceRequirements | None = None
    """Resource requests and limits of the container. Default: requests of 50m CPU and 128Mi memory,
    and a limit of 1Gi memory. {} sets neither."""
    env: Annotated[
        list[EnvVar],
        Field(
            default_factory=list,
            max_length=500,
            json_schema_extra=BY_NAME
            | rules(
                (
                    f"self.all(each, !(each.name in {list(WORKER_ENVIRONMENT)}))",
                    f"the operator sets {', '.join(WORKER_ENVIRONMENT)} itself",
                )
            ),
        ),
    ]
    """Additional environment variables."""
    env_from: Annotated[list[EnvFromSource], Field(default_factory=list, json_schema_extra=ATOMIC)]
    """ConfigMaps and Secrets whose keys become additional environment variables."""
    volumes: Annotated[list[Untyped], Field(default_factory=list, json_schema_extra=ATOMIC)]
    """Additional volumes, as in a pod. The name `tmp` is taken by the operator's own volume, which
    holds 1Gi."""
    volume_mounts: Annotated[list[Untyped], Field(default_factory=list, json_schema_extra=ATOMIC)]
    """Where the volumes are mounted, as in a container. The root file system is read-only; /tmp is
    writable."""
    service_account_name: ObjectName | None = None
    """The service account of the pods. Its token is mounted only if you set this field. Default:
    the namespace's default account, without a token."""
    node_selector: Annotated[dict[str, str], Field(default_factory=dict)]
    """Labels that a node must have to run the pods."""
    tolerations: Annotated[list[Toleration], Field(default_factory=list, json_schema_extra=ATOMIC)]
    """Taints that the pods tolerate."""
    affinity: Untyped | None = None
    """Affinity, as in a pod."""
    topology_spread_constraints: Annotated[
        list[Untyped], Field(default_factory=list, json_schema_extra=ATOMIC)
    ]
    """How the pods are spread over nodes and zones, as in a pod. A constraint without labelSelector
    gets the one of the Deployment."""
    priority_class_name: str | None = None
    """The priority class of the pods."""
    pod_labels: Annotated[dict[str, str], Field(default_factory=dict)]
    """Additional labels of the pods. The operator's own labels cannot be overridden."""
    pod_annotations: Annotated[dict[str, str], Field(default_factory=dict)]
    """Additional annotations of the pods. The operator's own annotations cannot be overridden."""
    pod_security_context: Untyped | None = None
    """Fields that override those of the pod's security context. The default meets the restricted
    Pod Security Standard."""
    security_context: Untyped | None = None
    """Fields that override those of the container's security context. The default meets the
    restricted Pod Security Standard."""
    termination_grace_period_seconds: Annotated[int, Field(ge=10, le=3_600)] = 30
    """How long a pod has to stop, in seconds. Running jobs have five seconds less to finish. Jobs
    that are not finished by then go back to the queue, ready at once, and the attempt does not
    count. Default 30."""


class DeploymentReference(Part):
    """A Deployment of yours. The operator sets its replicas and changes nothing else.

    Its containers must run `meshhook worker` on the queue.
    """

    name: ObjectName
    """The name of the Deployment, in the namespace of the JobQueue."""
