"""What the chart renders: by default, and for each switch."""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from support.helm import (
    CHART,
    NAMESPACE,
    RELEASE,
    HelmError,
    Object,
    helm,
    one,
    pods,
    render,
    select,
)

NAME = f"{RELEASE}-meshhook"
DIGEST = f"sha256:{'0' * 64}"
OF_THE_CLUSTER = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
OWN_DATABASE = {"database": {"existingSecret": "pg", "key": "url"}}
QUEUE = {
    "name": "orders",
    "spec": {"worker": {"handler": "shop:handle"}, "scaling": {"maxReplicas": 3}},
}


@pytest.fixture(scope="module")
def defaults() -> list[Object]:
    """What an install without values renders."""
    return render()


def environment(container: Object) -> dict[str, Any]:
    """Return the environment of a container by name."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def operator_pod(objects: list[Object]) -> Object:
    """Return the spec of the operator's pod."""
    return pods(objects)[f"Deployment/{NAME}-operator"]


def annotations_of(each: Object) -> dict[str, str]:
    """Return the annotations of an object."""
    found: dict[str, str] = each["metadata"].get("annotations", {})
    return found


def is_hook(each: Object) -> bool:
    """Whether helm makes an object apart from the release."""
    return "helm.sh/hook" in annotations_of(each)


# --- Whole renderings ----------------------------------------------------------------------------


def test_without_values_everything_to_start_with_is_there(defaults):
    """The operator with its rights, the database, the resource, dashboards and the test."""
    kinds = {(each["kind"], is_hook(each)) for each in defaults}
    assert {kind for kind, hook in kinds if not hook} == {
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "CustomResourceDefinition",
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Secret",
        "Service",
        "ServiceAccount",
        "StatefulSet",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    assert {kind for kind, hook in kinds if hook} == {"JobQueue", "Pod"}


def test_objects_are_in_the_namespace_of_the_release(defaults):
    """Every object names its namespace, except those that have none."""
    for each in defaults:
        if each["kind"] in OF_THE_CLUSTER:
            assert "namespace" not in each["metadata"]
        else:
            assert each["metadata"]["namespace"] == NAMESPACE, each["metadata"]["name"]


def test_names_are_unique_and_short_enough(defaults):
    """No two objects of a kind share a name, also where the release's is very long."""
    keys = [(each["kind"], each["metadata"]["name"]) for each in defaults]
    assert len(keys) == len(set(keys))
    long = render({"fullnameOverride": "a" * 40})
    assert all(len(each["metadata"]["name"]) <= 63 for each in long)
    assert len(one(long, "JobQueue")["metadata"]["name"]) <= 52


def test_labels_select_what_they_should(defaults):
    """Services, budgets and policies of one component select its pods alone."""
    for component, kind in (("operator", "Deployment"), ("database", "StatefulSet")):
        labels = one(defaults, kind)["spec"]["template"]["metadata"]["labels"]
        selector = one(defaults, "Service", f"{NAME}-{component}")["spec"]["selector"]
        assert selector.items() <= labels.items()
        assert labels["app.kubernetes.io/component"] == component
        policy = one(defaults, "NetworkPolicy", f"{NAME}-{component}")["spec"]["podSelector"]
        assert policy["matchLabels"] == selector


def test_common_labels_are_on_objects_and_pods():
    """`commonLabels` go everywhere."""
    objects = render({"commonLabels": {"team": "payments"}})
    assert all(each["metadata"]["labels"]["team"] == "payments" for each in objects)
    template = one(objects, "Deployment")["spec"]["template"]["metadata"]
    assert template["labels"]["team"] == "payments"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"nameOverride": "queues"}, f"{RELEASE}-queues"),
        ({"fullnameOverride": "queues"}, "queues"),
        ({"nameOverride": "shop"}, RELEASE),
    ],
)
def test_names_can_be_overridden(values, name):
    """`nameOverride` and `fullnameOverride` name the objects; a name is not doubled."""
    assert one(render(values), "Deployment")["metadata"]["name"] == f"{name}-operator"


# --- The image -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "localhost/meshhook-queue:0.1.0"),
        ({"repository": "registry.example/q", "tag": "7"}, "registry.example/q:7"),
        (
            {"tag": "7", "digest": f"sha256:{'0' * 64}"},
            f"localhost/meshhook-queue@sha256:{'0' * 64}",
        ),
    ],
)
def test_all_pods_run_one_image(image, expected):
    """Tag and digest reach every container; the digest wins. The database's image is another."""
    values = {"image": image | {"pullPolicy": "Never"}, "imagePullSecrets": [{"name": "pull"}]}
    objects = render(values) + render(values | OWN_DATABASE)
    for name, pod in pods(objects).items():
        for container in pod["containers"]:
            assert (container["image"] == expected) is ("StatefulSet" not in name), name
            assert container["imagePullPolicy"] == "Never"
        assert pod["imagePullSecrets"] == [{"name": "pull"}]
    worker = select(objects, "JobQueue")[0]["spec"]["worker"]
    assert worker["image"] == expected
    assert worker["imagePullSecrets"] == [{"name": "pull"}]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "localhost/meshhook-queue-evaluation:0.1.0"),
        ({"repository": "registry.example/q", "tag": "7"}, "registry.example/q:7"),
        ({"digest": DIGEST}, f"localhost/meshhook-queue-evaluation@{DIGEST}"),
    ],
)
def test_the_embedded_database_has_an_image_of_its_own(image, expected):
    """Only its pod runs the image with a PostgreSQL in it."""
    found = pods(render({"embedded": {"image": image}}))
    images = {name: pod["containers"][0]["image"] for name, pod in found.items()}
    assert [name for name, each in images.items() if each == expected] == [
        f"StatefulSet/{NAME}-database"
    ]


# --- The database --------------------------------------------------------------------------------


def test_the_embedded_database_is_there_only_without_one_of_your_own(defaults):
    """database.existingSecret takes its pod, Service, Secret and policy away."""
    assert select(defaults, "StatefulSet")
    objects = render(OWN_DATABASE)
    assert not select(objects, "StatefulSet")
    assert not select(objects, "Secret")
    assert not [each for each in objects if each["metadata"]["name"] == f"{NAME}-database"]


def test_the_url_of_the_embedded_database_has_its_password():
    """Secret, Service and pod agree, and the password is quoted where a URL needs it."""
    objects = render({"embedded": {"password": "a b:c/d@e+f%".replace(" ", "_")}})
    secret = one(objects, "Secret", f"{NAME}-database")
    service = one(objects, "Service", f"{NAME}-database")
    assert secret["stringData"]["password"] == "a_b:c/d@e+f%"
    assert secret["stringData"]["uri"] == (
        f"postgresql://meshhook:a_b%3Ac%2Fd%40e%2Bf%25@{service['metadata']['name']}.{NAMESPACE}"
        ".svc:5432/meshhook"
    )
    (container,) = pods(objects)[f"StatefulSet/{NAME}-database"]["containers"]
    reference = environment(container)["MESHHOOK_POSTGRES_PASSWORD"]["secretKeyRef"]
    assert reference == {"name": secret["metadata"]["name"], "key": "password"}


def test_the_embedded_password_is_random():
    """No two releases or roles share a password."""
    first, second = (passwords(render({"commonLabels": {"rendering": n}})) for n in ("1", "2"))
    assert len({*first.values(), *second.values()}) == 6
    assert {len(each) for each in first.values()} == {32}


def passwords(objects: list[Object]) -> dict[str, str]:
    """Return the password of each role of the embedded database."""
    found = {}
    for secret in select(objects, "Secret"):
        url = urlsplit(secret["stringData"]["uri"])
        found[str(url.username)] = secret["stringData"]["password"]
        assert unquote(str(url.password)) == secret["stringData"]["password"]
    return found


def test_roles_of_the_embedded_database_have_passwords_of_their_own():
    """Owner, operator and workers; from one that is set, those of the others are made."""
    first, second = (
        passwords(render({"embedded": {"password": "eight-or-more"}, "commonLabels": {"n": n}}))
        for n in ("1", "2")
    )
    assert first == second
    assert first["meshhook"] == "eight-or-more"
    assert first.keys() == {"meshhook", "meshhook_operator", "meshhook_worker"}
    assert len(set(first.values())) == 3
    assert not any("eight" in first[role] for role in ("meshhook_operator", "meshhook_worker"))


def test_nothing_but_its_owner_uses_the_owners_url(defaults):
    """Queues have those of operator and workers; `helm test`, which enqueues, has the owner's."""
    (queue,) = select(defaults, "JobQueue")
    assert queue["spec"]["database"] == {
        "secretRef": {"name": f"{NAME}-database-workers", "key": "uri"},
        "operatorSecretRef": {"name": f"{NAME}-database-operator", "key": "uri"},
        "pooled": False,
    }
    assert url_of_the_test(defaults) == {"name": f"{NAME}-database", "key": "uri"}
    (container,) = pods(defaults)[f"StatefulSet/{NAME}-database"]["containers"]
    assert {
        name: value["secretKeyRef"]["name"]
        for name, value in environment(container).items()
        if "PASSWORD" in name
    } == {
        "MESHHOOK_POSTGRES_PASSWORD": f"{NAME}-database",
        "MESHHOOK_POSTGRES_OPERATOR_PASSWORD": f"{NAME}-database-operator",
        "MESHHOOK_POSTGRES_WORKER_PASSWORD": f"{NAME}-database-workers",
    }


def test_data_and_password_of_the_embedded_database_outlive_the_release(defaults):
    """The volume is a claim of the StatefulSet, which helm leaves; the Secret is marked to stay."""
    for secret in select(defaults, "Secret"):
        assert annotations_of(secret)["helm.sh/resource-policy"] == "keep"
    (claim,) = one(defaults, "StatefulSet")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "8Gi"
    assert "storageClassName" not in claim["spec"]


def test_the_volume_can_be_chosen_or_left_out():
    """embedded.persistence sets size, class and modes; disabled, the data are in an emptyDir."""
    persistence = {"size": "1Gi", "storageClass": "fast", "accessModes": ["ReadWriteOncePod"]}
    stateful_set = one(render({"embedded": {"persistence": persistence}}), "StatefulSet")
    (claim,) = stateful_set["spec"]["volumeClaimTemplates"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOncePod"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    bare = one(render({"embedded": {"persistence": {"enabled": False}}}), "StatefulSet")["spec"]
    assert "volumeClaimTemplates" not in bare
    assert {"name": "data", "emptyDir": {"sizeLimit": "8Gi"}} in bare["template"]["spec"]["volumes"]


def test_settings_of_the_embedded_database_are_passed_on():
    """embedded.settings become options of `meshhook serve-postgres`."""
    objects = render({"embedded": {"settings": {"work_mem": "8MB", "shared_buffers": "1GB"}}})
    (container,) = pods(objects)[f"StatefulSet/{NAME}-database"]["containers"]
    assert container["args"] == [
        "serve-postgres",
        "/data/postgresql",
        "--set=max_connections=200",
        "--set=shared_buffers=1GB",
        "--set=work_mem=8MB",
    ]


def test_where_the_embedded_database_runs_can_be_chosen():
    """nodeSelector, tolerations and resources of the embedded database reach its pod."""
    values = {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}]}
    objects = render({"embedded": values | {"resources": {"limits": {"memory": "2Gi"}}}})
    pod = pods(objects)[f"StatefulSet/{NAME}-database"]
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["containers"][0]["resources"]["limits"]["memory"] == "2Gi"


def test_the_authoritys_certificate_reaches_everything_that_connects():
    """database.caSecret is mounted at /database in operator, migrations, test and workers."""
    values = {"database": {"existingSecret": "pg", "caSecret": "ca"}, "queues": [QUEUE]}
    objects = render(values)
    workers = [each["spec"]["worker"] for each in select(objects, "JobQueue")]
    found = [(pod["volumes"], pod["containers"][0]) for pod in pods(objects).values()]
    found += [(worker["volumes"], worker) for worker in workers]
    assert len(found) == 5
    volume = {"secretName": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    mount = {"name": "database-ca", "mountPath": "/database", "readOnly": True}
    for volumes, container in found:
        assert {"name": "database-ca", "secret": volume} in volumes
        assert mount in container["volumeMounts"]


# --- Migrations ----------------------------------------------------------------------------------


def test_migrations_run_before_an_install_and_an_upgrade():
    """With a database of your own, a hook migrates it, with the Secret of the database."""
    job = one(render(OWN_DATABASE), "Job")
    assert annotations_of(job)["helm.sh/hook"] == "pre-install,pre-upgrade"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert [*container["command"], *container["args"]] == ["meshhook", "migrate"]
    reference = environment(container)["MESHHOOK_DATABASE_URL"]["secretKeyRef"]
    assert reference == {"name": "pg", "key": "url"}


def test_migrations_may_have_a_role_of_their_own():
    """migrations.existingSecret replaces that of the database, and leads past its pooler."""
    values = {
        "database": {"existingSecret": "pg", "pooled": True},
        "migrations": {"existingSecret": "owner", "key": "dsn", "retries": 1, "timeoutSeconds": 60}
        | {"podAnnotations": {"mesh": "no"}},
    }
    job = one(render(values), "Job")["spec"]
    variables = environment(job["template"]["spec"]["containers"][0])
    assert variables["MESHHOOK_DATABASE_URL"]["secretKeyRef"] == {"name": "owner", "key": "dsn"}
    assert "MESHHOOK_POOLED" not in variables
    assert (job["backoffLimit"], job["activeDeadlineSeconds"]) == (1, 60)
    assert job["template"]["metadata"]["annotations"] == {"mesh": "no"}


ROLES = {
    "database": {"existingSecret": "workers", "operatorExistingSecret": "operator"}
    | {"operatorKey": "dsn"},
    "migrations": {"existingSecret": "owner"},
}
CREATE = ["meshhook", "roles", "create"]
LOGIN = ["--login-from-env", "LOGIN_URL"]


def steps(values: dict[str, Any]) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Return the steps of the migrations in order: name, command and Secrets."""
    pod = pods(render(values))[f"Job/{NAME}-migrations"]
    return [
        (
            each["name"],
            [*each["command"], *each["args"]],
            {
                name: value["secretKeyRef"]
                for name, value in environment(each).items()
                if isinstance(value, dict)
            },
        )
        for each in [*pod.get("initContainers", []), *pod["containers"]]
    ]


def test_migrations_make_the_roles_of_operator_and_workers():
    """With Secrets of their own; names and passwords come from the URLs, by the environment."""
    owner = {"MESHHOOK_DATABASE_URL": {"name": "owner", "key": "uri"}}
    operator, workers = {"name": "operator", "key": "dsn"}, {"name": "workers", "key": "uri"}
    assert steps(ROLES) == [
        ("migrations", ["meshhook", "migrate"], owner),
        (
            "operator-role",
            [*CREATE, "operator", *LOGIN, "--reset-password"],
            owner | {"LOGIN_URL": operator},
        ),
        (
            "worker-role",
            [*CREATE, "worker", *LOGIN, "--reset-password"],
            owner | {"LOGIN_URL": workers},
        ),
    ]


def test_what_roles_get_can_be_chosen():
    """Passwords may be kept elsewhere, workers may enqueue, and roles be made by hand."""

    def made(**roles: bool) -> list[list[str]]:
        values = ROLES | {"migrations": {"existingSecret": "owner", "roles": roles}}
        return [command for _, command, _ in steps(values)]

    assert made(setPasswords=False)[1] == [*CREATE, "operator", *LOGIN]
    assert made(workersEnqueue=True)[3] == [*CREATE, "producer", *LOGIN]
    assert made(enabled=False) == [["meshhook", "migrate"]]
    schedules = [{"name": "nightly", "spec": {"cron": "@daily"}}]
    fired = ROLES | {"queues": [QUEUE | {"schedules": schedules}]}
    assert "producer" in [command for _, command, _ in steps(fired)][3]


def test_roles_take_an_owner():
    """The error names the value, and the way without it."""
    values = {"database": ROLES["database"]}
    with pytest.raises(HelmError, match=r"set migrations\.existingSecret; or .*roles sql"):
        render(values)
    render(values | {"migrations": {"roles": {"enabled": False}}})
    render(values | {"migrations": {"enabled": False}})


def test_one_secret_still_serves_all():
    """Without a Secret for the operator no role is made, and queues name one Secret."""
    for values in (OWN_DATABASE, OWN_DATABASE | {"migrations": {"existingSecret": "owner"}}):
        assert [name for name, _, _ in steps(values)] == ["migrations"]
        assert "operatorSecretRef" not in queue_of({"queues": [QUEUE]} | values)["spec"]["database"]


def test_each_gets_the_url_of_its_own_role():
    """Queues name the workers' Secret and the operator's; the test the owner's, or its own."""
    objects = render(ROLES | {"queues": [QUEUE]})
    for queue in select(objects, "JobQueue"):
        assert queue["spec"]["database"] == {
            "secretRef": {"name": "workers", "key": "uri"},
            "operatorSecretRef": {"name": "operator", "key": "dsn"},
            "pooled": False,
        }
    assert url_of_the_test(objects) == {"name": "owner", "key": "uri"}
    own = render(ROLES | {"test": {"existingSecret": "tester", "key": "a"}})
    assert url_of_the_test(own) == {"name": "tester", "key": "a"}
    assert url_of_the_test(render(OWN_DATABASE)) == {"name": "pg", "key": "url"}


def url_of_the_test(objects: list[Object]) -> Any:
    """Return the Secret whose URL `helm test` takes."""
    (container,) = pods(objects)[f"Pod/{NAME}-test"]["containers"]
    return environment(container)["MESHHOOK_DATABASE_URL"]["secretKeyRef"]


def test_no_step_has_a_secret_among_its_arguments():
    """What is secret comes from a Secret into the environment, and never onto a command line."""
    for name, command, secrets in steps(ROLES):
        assert all("://" not in each for each in command), name
        assert secrets


def test_migrations_are_left_out_where_they_are_not_wanted(defaults):
    """The embedded database migrates itself; migrations.enabled turns the hook off."""
    assert not select(defaults, "Job")
    assert not select(render(OWN_DATABASE | {"migrations": {"enabled": False}}), "Job")


def test_a_pooler_is_told_to_everything_that_connects():
    """database.pooled reaches migrations, test and queues."""
    values = {"database": {"existingSecret": "pg", "pooled": True}, "queues": [QUEUE]}
    objects = render(values)
    for name, pod in pods(objects).items():
        if "operator" not in name:
            assert environment(pod["containers"][0])["MESHHOOK_POOLED"] == "true", name
    assert all(each["spec"]["database"]["pooled"] for each in select(objects, "JobQueue"))


# --- The operator --------------------------------------------------------------------------------


def test_the_operator_may_do_what_its_rules_say_in_the_whole_cluster(defaults):
    """By default a ClusterRole, whose name tells releases of different namespaces apart."""
    role = one(defaults, "ClusterRole")
    binding = one(defaults, "ClusterRoleBinding")
    assert role["metadata"]["name"] == f"{NAMESPACE}-{NAME}-operator"
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": f"{NAME}-operator", "namespace": NAMESPACE}
    ]


def test_the_operator_can_be_kept_to_some_namespaces():
    """`watchNamespaces` makes a Role in each, no ClusterRole, and tells the operator."""
    objects = render({"operator": {"watchNamespaces": ["a", "b"]}})
    assert not select(objects, "ClusterRole")
    for kind in ("Role", "RoleBinding"):
        found = select(objects, kind, f"{NAME}-operator")
        assert [each["metadata"]["namespace"] for each in found] == ["a", "b"]
    for binding in select(objects, "RoleBinding", f"{NAME}-operator"):
        assert binding["roleRef"] == {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": f"{NAME}-operator",
        }
        assert binding["subjects"][0]["namespace"] == NAMESPACE
    (container,) = operator_pod(objects)["containers"]
    assert environment(container)["MESHHOOK_OPERATOR_NAMESPACES"] == "a,b"


def test_the_secrets_that_the_operator_reads_can_be_named():
    """`secretNames` narrows its right down to these and the release's own, in all its roles."""
    for watched, kind in (([], "ClusterRole"), (["a"], "Role")):
        operator = {"rbac": {"secretNames": ["mail", "shop"]}, "watchNamespaces": watched}
        objects = render(OWN_DATABASE | {"operator": operator})
        (rule,) = (
            rule
            for role in select(objects, kind)
            for rule in role["rules"]
            if rule["resources"] == ["secrets"]
        )
        assert rule["resourceNames"] == ["mail", "shop", "pg"]
        assert rule["verbs"] == ["get"]


def test_an_operator_that_is_kept_to_some_namespaces_has_no_right_beyond(defaults):
    """No role of the whole cluster is left, and every binding is to a role of its namespace."""
    assert select(defaults, "ClusterRoleBinding")
    objects = render({"operator": {"watchNamespaces": ["a"]}})
    assert not select(objects, "ClusterRole")
    assert not select(objects, "ClusterRoleBinding")
    assert {each["roleRef"]["kind"] for each in select(objects, "RoleBinding")} == {"Role"}


def test_rights_and_account_can_be_made_elsewhere():
    """rbac.create and serviceAccount.create turn them off; the account's name is then yours."""
    operator = {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "mine"}}
    objects = render({"operator": operator})
    for kind in ("ClusterRole", "ClusterRoleBinding", "ServiceAccount"):
        assert not select(objects, kind)
    assert operator_pod(objects)["serviceAccountName"] == "mine"
    default = render({"operator": {"serviceAccount": {"create": False}}})
    assert operator_pod(default)["serviceAccountName"] == "default"


def test_the_account_can_have_a_name_and_annotations_of():
    """serviceAccount.name and annotations reach it, and the pod and the binding use it."""
    account = {"name": "mine", "annotations": {"cloud": "role"}}
    objects = render({"operator": {"serviceAccount": account}})
    found = one(objects, "ServiceAccount")
    assert found["metadata"]["name"] == "mine"
    assert annotations_of(found) == {"cloud": "role"}
    assert one(objects, "ClusterRoleBinding")["subjects"][0]["name"] == "mine"
    assert operator_pod(objects)["serviceAccountName"] == "mine"


def test_the_operators_pod_can_be_shaped():
    """What operator.* sets reaches the pod beside what the chart puts there."""
    operator = {
        "logLevel": "debug",
        "extraEnv": [{"name": "A", "value": "b"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "podLabels": {"tier": "control"},
        "podAnnotations": {"note": "x"},
        "priorityClassName": "high",
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "terminationGracePeriodSeconds": 7,
        "resources": {"limits": {"memory": "1Gi"}},
    }
    objects = render({"operator": operator})
    metadata = one(objects, "Deployment")["spec"]["template"]["metadata"]
    assert metadata["labels"]["tier"] == "control"
    assert metadata["annotations"] == {"note": "x"}
    pod = operator_pod(objects)
    (container,) = pod["containers"]
    assert environment(container) | {"A": "b", "MESHHOOK_LOG_LEVEL": "debug"} == environment(
        container
    )
    assert {each["mountPath"] for each in container["volumeMounts"]} == {"/tmp", "/ca"}
    assert {each["name"] for each in pod["volumes"]} == {"tmp", "ca"}
    assert container["resources"]["limits"] == {"memory": "1Gi"}
    shaped = ("priorityClassName", "nodeSelector", "tolerations", "affinity")
    assert {key: pod[key] for key in (*shaped, "terminationGracePeriodSeconds")} == {
        key: operator[key] for key in (*shaped, "terminationGracePeriodSeconds")
    }


def test_the_databases_that_the_operator_connects_to_can_be_listed():
    """`allowedDatabaseHosts` becomes one variable; without, there is none."""
    hosts = ["*.db.svc", "10.0.0.0/8", "[fd00::/8]:5432"]
    (container,) = operator_pod(render({"operator": {"allowedDatabaseHosts": hosts}}))["containers"]
    variable = "MESHHOOK_OPERATOR_ALLOWED_DATABASE_HOSTS"
    assert environment(container)[variable] == "*.db.svc,10.0.0.0/8,[fd00::/8]:5432"
    (container,) = operator_pod(render())["containers"]
    assert variable not in environment(container)
    with pytest.raises(HelmError, match="allowedDatabaseHosts"):
        render({"operator": {"allowedDatabaseHosts": ["a,b"]}})


def test_an_upgrade_starts_the_new_operator_before_the_old_one_ends(defaults):
    """One replica by default, and one more during an upgrade, which takes over when it is ready."""
    spec = one(defaults, "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "topologySpreadConstraints" not in operator_pod(defaults)


def test_the_operator_can_have_replicas_that_stand_by():
    """They are put on different nodes if possible; more than a few make no sense."""
    objects = render({"operator": {"replicas": 3}})
    assert one(objects, "Deployment")["spec"]["replicas"] == 3
    (spread,) = operator_pod(objects)["topologySpreadConstraints"]
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    for wrong in (0, 11, "two"):
        with pytest.raises(HelmError, match="replicas"):
            render({"operator": {"replicas": wrong}})


@pytest.mark.parametrize("namespaces", [[], ["a", "b"]])
def test_the_operator_may_write_its_own_lease(namespaces):
    """Its pods have one Lease, named as the Deployment, and each pod its own name in it."""
    objects = render({"operator": {"watchNamespaces": namespaces}}, namespace="queues")
    (container,) = operator_pod(objects)["containers"]
    variables = {each["name"]: each for each in container["env"]}
    assert variables["MESHHOOK_OPERATOR_LEASE"]["value"] == f"queues/{NAME}-operator"
    identity = variables["MESHHOOK_OPERATOR_IDENTITY"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert identity == "metadata.name"
    role = one(objects, "Role", f"{NAME}-operator-lease")
    assert role["metadata"]["namespace"] == "queues"
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in role["rules"]] == [
        (["create"], None),
        (["get", "patch"], [f"{NAME}-operator"]),
    ]
    binding = one(objects, "RoleBinding", f"{NAME}-operator-lease")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["namespace"] == "queues"


def test_the_operators_service_can_have_annotations_of():
    """operator.service.annotations, for scrapers that go by them."""
    objects = render({"operator": {"service": {"annotations": {"prometheus.io/scrape": "true"}}}})
    service = one(objects, "Service", f"{NAME}-operator")
    assert annotations_of(service) == {"prometheus.io/scrape": "true"}
    assert service["spec"]["ports"][0]["name"] == "metrics"


# --- The resource definition ---------------------------------------------------------------------


def test_the_resource_definition_stays_unless_told_otherwise(defaults):
    """crds.keep marks each to stay at an uninstall; crds.enabled leaves it out."""
    for definition in select(defaults, "CustomResourceDefinition"):
        assert annotations_of(definition)["helm.sh/resource-policy"] == "keep"
    for loose in select(render({"crds": {"keep": False}}), "CustomResourceDefinition"):
        assert "helm.sh/resource-policy" not in annotations_of(loose)
    assert not select(render({"crds": {"enabled": False}}), "CustomResourceDefinition")


# --- Queues --------------------------------------------------------------------------------------


def queue_of(values: dict[str, Any], **options: Any) -> Object:
    """Return the JobQueue `orders` of these values."""
    return one(render(values, **options), "JobQueue", "orders")


def test_a_queue_takes_database_and_image_from_the_release():
    """A queue that names none gets the release's database, the chart's image, and its own name."""
    spec = queue_of({"queues": [QUEUE]})["spec"]
    assert spec["queueName"] == "orders"
    assert spec["database"] == {
        "secretRef": {"name": f"{NAME}-database-workers", "key": "uri"},
        "operatorSecretRef": {"name": f"{NAME}-database-operator", "key": "uri"},
        "pooled": False,
    }
    assert spec["worker"]["image"] == "localhost/meshhook-queue:0.1.0"
    own = queue_of({"queues": [QUEUE]} | OWN_DATABASE)["spec"]
    assert own["database"]["secretRef"] == {"name": "pg", "key": "url"}


def test_what_a_queue_says_itself_wins():
    """A queue's own database, image, name, namespace, labels and annotations stay."""
    spec = {
        "queueName": "other",
        "database": {"secretRef": {"name": "mine"}},
        "worker": {"image": "shop:1", "handler": "shop:handle"},
        "scaling": {"minReplicas": 0, "maxReplicas": 3},
    }
    queue = {"name": "orders", "namespace": "shop", "labels": {"a": "b"}, "annotations": {"c": "d"}}
    found = queue_of({"queues": [queue | {"spec": spec}]})
    assert found["spec"] == spec
    assert found["metadata"]["namespace"] == "shop"
    assert found["metadata"]["labels"]["a"] == "b"
    assert annotations_of(found)["c"] == "d"


def test_a_queue_with_a_deployment_of_its_own_gets_no_worker():
    """`deploymentRef` is left alone."""
    spec = {"deploymentRef": {"name": "mine"}, "scaling": {"maxReplicas": 3}}
    found = queue_of({"queues": [{"name": "orders", "spec": spec}]})["spec"]
    assert "worker" not in found


def test_schedules_belong_to_their_queue():
    """Each is a JobSchedule in the namespace of its queue, and what it says itself wins."""
    schedules = [
        {
            "name": "nightly",
            "labels": {"a": "b"},
            "spec": {"cron": "0 3 * * *", "payload": {"n": 1}},
        },
        {"name": "poll", "spec": {"everySeconds": 60, "scheduleName": "Poll"}},
    ]
    queue = QUEUE | {"namespace": "shop", "schedules": schedules}
    objects = render({"queues": [queue, QUEUE | {"name": "mails"}]})
    found = one(objects, "JobSchedule", "orders-nightly")
    assert found["metadata"]["namespace"] == "shop"
    assert found["metadata"]["labels"]["a"] == "b"
    assert found["spec"] == {
        "jobQueueRef": {"name": "orders"},
        "scheduleName": "nightly",
        "cron": "0 3 * * *",
        "payload": {"n": 1},
    }
    assert one(objects, "JobSchedule", "orders-poll")["spec"]["scheduleName"] == "Poll"
    assert len(select(objects, "JobSchedule")) == 2
    assert "schedules" not in one(objects, "JobQueue", "orders")["spec"]


def test_queues_are_rendered_where_there_is_no_cluster_to_ask():
    """A tool that renders charts by itself gets the queues before the cluster knows JobQueues."""
    found = queue_of({"queues": [QUEUE]}, knows_job_queues=False)
    assert not is_hook(found)
    options = annotations_of(found)["argocd.argoproj.io/sync-options"]
    assert options == "SkipDryRunOnMissingResource=true"


def test_each_queue_has_a_disruption_budget():
    """A share of its worker pods may be away at once; the switch leaves the budgets out."""
    objects = render({"queues": [QUEUE, QUEUE | {"name": "mails", "namespace": "mail"}]})
    budget = one(objects, "PodDisruptionBudget", "mails-worker")
    assert budget["metadata"]["namespace"] == "mail"
    assert budget["spec"]["maxUnavailable"] == "25%"
    assert budget["spec"]["selector"] == {"matchLabels": {"meshhook.io/jobqueue": "mails"}}
    off = {"queues": [QUEUE], "workers": {"podDisruptionBudget": {"enabled": False}}}
    assert not select(render(off), "PodDisruptionBudget", "orders-worker")
    two = {"queues": [QUEUE], "workers": {"podDisruptionBudget": {"maxUnavailable": 2}}}
    assert one(render(two), "PodDisruptionBudget", "orders-worker")["spec"]["maxUnavailable"] == 2


def test_the_operators_budget_never_stops_a_drain(defaults):
    """Its one pod may be away; the switch leaves the budget out."""
    assert one(defaults, "PodDisruptionBudget", f"{NAME}-operator")["spec"]["maxUnavailable"] == 1
    off = render({"operator": {"podDisruptionBudget": {"enabled": False}}})
    assert not select(off, "PodDisruptionBudget")


def test_queues_that_nobody_would_serve_are_refused():
    """With `watchNamespaces` a queue in another namespace is an error that names both."""
    watched = {"operator": {"watchNamespaces": ["mail"]}}
    with pytest.raises(HelmError, match=f'"orders" is in namespace "{NAMESPACE}"'):
        render(watched | {"queues": [QUEUE]})
    objects = render(watched | {"queues": [QUEUE | {"namespace": "mail"}]})
    assert one(objects, "JobQueue", "orders")["metadata"]["namespace"] == "mail"


def test_the_test_is_left_out_where_its_queue_would_not_be_served():
    """`helm test` would wait for ever; with the release's namespace among them it is there."""
    for others, is_there in (([], False), ([NAMESPACE], True)):
        objects = render({"operator": {"watchNamespaces": ["mail", *others]}})
        assert bool(select(objects, "JobQueue")) is is_there
        assert bool(select(objects, "Pod")) is is_there


def test_the_queue_of_the_test_has_a_name_that_a_queue_may_have():
    """Also where the release's name is long, or has dots."""
    objects = render({"fullnameOverride": "a" * 19 + "." + "b" * 20})
    (queue,) = select(objects, "JobQueue")
    (pod,) = select(objects, "Pod")
    name = queue["spec"]["queueName"]
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,42}", name)
    assert pod["spec"]["containers"][0]["args"][0] == name


# --- The network ---------------------------------------------------------------------------------


def test_network_policies_are_on_and_can_be_turned_off(defaults):
    """Operator, workers, jobs and database each have one; the switch leaves all out."""
    names = {each["metadata"]["name"] for each in select(defaults, "NetworkPolicy")}
    assert names == {f"{NAME}-{part}" for part in ("operator", "workers", "jobs", "database")}
    assert not select(render({"networkPolicy": {"enabled": False}}), "NetworkPolicy")


def test_workers_are_kept_apart_in_each_namespace_that_is_watched():
    """The policy of the workers is where the workers are."""
    objects = render({"operator": {"watchNamespaces": ["shop", "mail"]}})
    policies = select(objects, "NetworkPolicy", f"{NAME}-workers")
    assert [each["metadata"]["namespace"] for each in policies] == ["shop", "mail"]
    assert len({yaml.safe_dump(each["spec"]) for each in policies}) == 1


def test_who_may_read_metrics_can_be_narrowed():
    """`metricsFrom` goes to operator and workers, on the port of the metrics alone."""
    source = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    objects = render({"networkPolicy": {"metricsFrom": source}})
    for part in ("operator", "workers"):
        (rule,) = one(objects, "NetworkPolicy", f"{NAME}-{part}")["spec"]["ingress"]
        assert rule == {"ports": [{"port": "metrics", "protocol": "TCP"}], "from": source}


# --- Dashboards ----------------------------------------------------------------------------------


def test_dashboards_can_be_labelled_or_left_out():
    """monitoring.dashboards sets labels and annotations of the ConfigMaps, or leaves them out."""
    dashboards = {"labels": {"grafana_dashboard": None, "board": "yes"}, "annotations": {"f": "x"}}
    objects = render({"monitoring": {"dashboards": dashboards}})
    found = [
        each for each in select(objects, "ConfigMap") if "-dashboard-" in str(each["metadata"])
    ]
    assert found
    for each in found:
        assert each["metadata"]["labels"]["board"] == "yes"
        assert annotations_of(each) | {"f": "x"} == annotations_of(each)
    off = render({"monitoring": {"dashboards": {"enabled": False}}})
    assert [each["metadata"]["name"] for each in select(off, "ConfigMap")] == [f"{NAME}-test"]


# --- The rest ------------------------------------------------------------------------------------


def test_the_test_waits_as_long_as_it_is_told():
    """test.timeoutSeconds reaches the pod, which may live a minute longer."""
    pod = pods(render({"test": {"timeoutSeconds": 30}}))[f"Pod/{NAME}-test"]
    assert pod["containers"][0]["args"] == [f"{NAME}-test", "30"]
    assert pod["activeDeadlineSeconds"] == 90


def test_the_test_uses_a_queue_that_starts_without_workers(defaults):
    """`helm test` sees a worker pod started, not one that waited."""
    queue = one(defaults, "JobQueue")
    assert annotations_of(queue)["helm.sh/hook"] == "test"
    assert queue["spec"]["scaling"]["minReplicas"] == 0
    assert (
        queue["spec"]["queueName"] == pods(defaults)[f"Pod/{NAME}-test"]["containers"][0]["args"][0]
    )


def test_extra_objects_may_be_yaml_or_text_with_templates():
    """Both forms are rendered as templates."""
    text = "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: '{{ .Release.Name }}-a'"
    plain = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "{{ .Release.Name }}-b"}}
    objects = render({"extraObjects": [text, plain]})
    assert one(objects, "ConfigMap", f"{RELEASE}-a")
    assert one(objects, "ConfigMap", f"{RELEASE}-b")


def test_an_older_kubernetes_is_refused():
    """The chart says which versions it is for."""
    with pytest.raises(HelmError, match="kubeVersion"):
        helm("template", RELEASE, CHART, "--kube-version", "1.26.0")


def test_nothing_secret_is_in_plain_sight(defaults):
    """Each password stands in its Secret, and in no other object."""
    for objects in (defaults, render({"embedded": {"password": "eight-or-more"}})):
        for password in passwords(objects).values():
            encoded = base64.b64encode(password.encode()).decode()
            found = [each for each in objects if password in str(each) or encoded in str(each)]
            assert [each["kind"] for each in found] == ["Secret"]
