"""The sandbox's Kubernetes API, as the official client meets it: it keeps state and refuses what a real one refuses."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, config, watch
from kubernetes.client import ApiException

from sandbox.home import Home
from sandbox.servers.kubernetes import NAME, age, api, forget_requests, kubeconfig, requests, writes
from tests.kubernetes_cluster import NAMESPACE, running_cluster


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with running_cluster() as home:
        yield home


@pytest.fixture(scope="module")
def connection(home: Home) -> client.ApiClient:
    return config.new_client_from_config(str(kubeconfig(home, NAMESPACE)))


@pytest.fixture
def core(connection: client.ApiClient) -> Iterator[client.CoreV1Api]:
    made = client.CoreV1Api(connection)
    yield made
    for configmap in made.list_namespaced_config_map(NAMESPACE).items:
        made.delete_namespaced_config_map(configmap.metadata.name, NAMESPACE)


@pytest.fixture
def apps(connection: client.ApiClient) -> client.AppsV1Api:
    return client.AppsV1Api(connection)


def configmap(name: str, labels: dict[str, str] | None = None, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels or {}}, "data": data}


def refused(code: int, reason: str, act: Any, *arguments: Any, **options: Any) -> str:
    """Assert that a call is refused so; return the server's message."""
    with pytest.raises(ApiException) as caught:
        act(*arguments, **options)
    body = client.ApiClient().deserialize(_Body(caught.value.body), "object")
    assert (caught.value.status, body["reason"]) == (code, reason)
    return str(body["message"])


class _Body:
    def __init__(self, data: str) -> None:
        self.data = data


# -- who may -----------------------------------------------------------------------------------------------


def test_nobody_is_let_in_without_a_token(home: Home) -> None:
    settings = client.Configuration(host=api(home).url)
    settings.ssl_ca_cert = str(home.path / "certificates" / "ca.pem")
    refused(401, "Unauthorized", client.CoreV1Api(client.ApiClient(settings)).list_node)


def test_the_server_speaks_tls_only_and_one_silent_client_blocks_nobody(home: Home, core: client.CoreV1Api) -> None:
    plain = http.client.HTTPConnection("127.0.0.1", home.port(NAME), timeout=3)
    plain.request("GET", "/version")
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.getresponse()
    silent = http.client.HTTPConnection("127.0.0.1", home.port(NAME))
    silent.connect()
    assert core.list_node(_request_timeout=3).items
    silent.close()


def test_a_viewer_may_look_but_neither_write_nor_see_secrets(home: Home) -> None:
    viewer = config.new_client_from_config(str(kubeconfig(home, NAMESPACE, user="viewer")))
    core = client.CoreV1Api(viewer)
    pod = core.list_namespaced_pod(NAMESPACE).items[0]
    message = refused(403, "Forbidden", core.delete_namespaced_pod, pod.metadata.name, NAMESPACE)
    assert 'User "viewer" cannot delete resource "pods"' in message
    refused(403, "Forbidden", core.list_namespaced_secret, NAMESPACE)
    asked = {"spec": {"resourceAttributes": {"verb": "delete", "resource": "pods", "namespace": NAMESPACE}}}
    answer = client.AuthorizationV1Api(viewer).create_self_subject_access_review(asked)
    assert answer.status.allowed is False
    usage = client.CustomObjectsApi(viewer)
    assert usage.list_cluster_custom_object("metrics.k8s.io", "v1beta1", "nodes")["items"]
    assert (
        usage.list_namespaced_custom_object("metrics.k8s.io", "v1beta1", NAMESPACE, "pods")["kind"] == "PodMetricsList"
    )
    refused(403, "Forbidden", client.PolicyV1Api(viewer).list_namespaced_pod_disruption_budget, NAMESPACE)


# -- objects -----------------------------------------------------------------------------------------------


def test_objects_have_an_identity_and_a_version(core: client.CoreV1Api) -> None:
    made = core.create_namespaced_config_map(NAMESPACE, configmap("one", a="1"))
    assert made.metadata.uid
    refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, configmap("one"))
    made.data = {"a": "2"}
    changed = core.replace_namespaced_config_map("one", NAMESPACE, made)
    assert changed.metadata.uid == made.metadata.uid
    assert int(changed.metadata.resource_version) > int(made.metadata.resource_version)
    # ``made`` still carries the version from before.
    refused(409, "Conflict", core.replace_namespaced_config_map, "one", NAMESPACE, made)
    core.delete_namespaced_config_map("one", NAMESPACE)
    refused(404, "NotFound", core.read_namespaced_config_map, "one", NAMESPACE)
    refused(404, "NotFound", core.create_namespaced_config_map, "nowhere", configmap("one"))
    refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, configmap("INC_2026"))


def test_label_and_field_selectors_select(core: client.CoreV1Api) -> None:
    for name, labels in (("a", {"tier": "web"}), ("b", {"tier": "db", "old": "yes"}), ("c", {})):
        core.create_namespaced_config_map(NAMESPACE, configmap(name, labels))

    def names(**selectors: str) -> str:
        return "".join(each.metadata.name for each in core.list_namespaced_config_map(NAMESPACE, **selectors).items)

    assert names(label_selector="tier=web") == "a"
    assert names(label_selector="tier!=web") == "bc"
    assert names(label_selector="tier in (web, db),!old") == "a"
    assert names(label_selector="tier notin (web)") == "bc"
    assert names(label_selector="old") == "b"
    assert names(field_selector="metadata.name=c") == "c"
    refused(400, "BadRequest", core.list_namespaced_config_map, NAMESPACE, label_selector="tier in web")
    refused(400, "BadRequest", core.list_namespaced_pod, NAMESPACE, field_selector="spec.image=x")
    finished = core.list_namespaced_pod(NAMESPACE, field_selector="status.phase=Failed").items
    assert {pod.status.phase for pod in finished} == {"Failed"}


def test_lists_come_in_pages_until_their_token_is_too_old(home: Home, core: client.CoreV1Api) -> None:
    for at in range(5):
        core.create_namespaced_config_map(NAMESPACE, configmap(f"page-{at}"))
    first = core.list_namespaced_config_map(NAMESPACE, limit=2)
    assert len(first.items) == 2
    assert first.metadata.remaining_item_count == 3
    token = first.metadata._continue
    second = core.list_namespaced_config_map(NAMESPACE, limit=2, _continue=token)
    assert [each.metadata.name for each in second.items] == ["page-2", "page-3"]
    core.create_namespaced_config_map(NAMESPACE, configmap("later"))
    api(home).send("POST", "/_sandbox/compact")
    refused(410, "Expired", core.list_namespaced_config_map, NAMESPACE, limit=2, _continue=token)


def test_a_strategic_patch_changes_one_variable_and_keeps_the_rest(apps: client.AppsV1Api) -> None:
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "app", "env": [{"name": "NEW", "value": "1"}]}]}}}}
    options = {"dry_run": "All"}
    patched = apps.patch_namespaced_deployment("studyspot-web", NAMESPACE, patch, **options)
    container = patched.spec.template.spec.containers[0]
    assert {each.name for each in container.env} == {"SERVICE", "NEW"}
    assert container.image.endswith(":1.4.2")
    # It was a dry run.
    now = apps.read_namespaced_deployment("studyspot-web", NAMESPACE)
    assert [each.name for each in now.spec.template.spec.containers[0].env] == ["SERVICE"]


def test_json_patches_merge_patches_and_what_is_neither(home: Home, core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map(NAMESPACE, configmap("patched", a="1", b="2"))
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/patched"
    merged = api(home).merge(path, {"data": {"a": None, "c": "3"}})
    assert merged["data"] == {"b": "2", "c": "3"}
    core.patch_namespaced_config_map("patched", NAMESPACE, [{"op": "replace", "path": "/data/b", "value": "two"}])
    assert core.read_namespaced_config_map("patched", NAMESPACE).data["b"] == "two"
    wrong = [{"op": "test", "path": "/data/b", "value": "three"}, {"op": "remove", "path": "/data/b"}]
    refused(422, "Invalid", core.patch_namespaced_config_map, "patched", NAMESPACE, wrong)
    assert core.read_namespaced_config_map("patched", NAMESPACE).data["b"] == "two"


def test_custom_resources_are_kept_and_refuse_strategic_patches(home: Home) -> None:
    path = f"/apis/cert-manager.io/v1/namespaces/{NAMESPACE}/certificates"
    body = {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": "web"},
        "spec": {"secretName": "web-tls", "dnsNames": ["studyspot.com"], "issuerRef": {"name": "letsencrypt"}},
    }
    assert api(home).send("POST", path, body)["metadata"]["generation"] == 1
    issuing = {"type": "Issuing", "status": "True", "reason": "ManuallyTriggered"}
    api(home).merge(f"{path}/web/status", {"status": {"conditions": [issuing]}})
    found = api(home).get(f"{path}/web")
    assert found["status"]["conditions"][0]["reason"] == "ManuallyTriggered"
    assert found["metadata"]["generation"] == 1
    with pytest.raises(Exception, match="415"):
        api(home).send("PATCH", f"{path}/web", {}, media_type="application/strategic-merge-patch+json")


def test_server_side_apply_knows_who_owns_a_field(home: Home) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/owned"

    def apply(manager: str, data: dict[str, str], *, force: bool = False) -> Any:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned"}, "data": data}
        where = f"{path}?fieldManager={manager}&force={str(force).lower()}"
        return api(home).send("PATCH", where, body, media_type="application/apply-patch+yaml")

    apply("upkeep", {"a": "1", "b": "1"})
    apply("other", {"c": "1"})
    with pytest.raises(Exception, match=r"conflict with .*upkeep.*: \.data\.a"):
        apply("other", {"a": "2"})
    assert apply("other", {"a": "2"}, force=True)["data"] == {"a": "2", "b": "1"}
    # What its owner no longer applies goes, unless somebody else wants it too.
    assert apply("upkeep", {"b": "1"})["data"] == {"a": "2", "b": "1"}
    api(home).send("DELETE", path)


def test_dry_runs_write_nothing_and_the_request_log_can_prove_it(home: Home, core: client.CoreV1Api) -> None:
    forget_requests(home)
    core.create_namespaced_config_map(NAMESPACE, configmap("never"), dry_run="All")
    assert [each["status"] for each in requests(home)] == [201]
    assert writes(home) == []
    refused(404, "NotFound", core.delete_namespaced_config_map, "never", NAMESPACE)
    assert [(each["method"], each["status"], each["user"]) for each in writes(home)] == [("DELETE", 404, "upkeep")]


def test_deletecollection_deletes_what_is_selected(core: client.CoreV1Api) -> None:
    for name, labels in (("x1", {"go": "yes"}), ("x2", {"go": "yes"}), ("x3", {})):
        core.create_namespaced_config_map(NAMESPACE, configmap(name, labels))
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="go=yes")
    assert [each.metadata.name for each in core.list_namespaced_config_map(NAMESPACE).items] == ["x3"]


def test_a_finalizer_keeps_a_deleted_object_until_it_is_removed(core: client.CoreV1Api) -> None:
    body = configmap("final")
    body["metadata"]["finalizers"] = ["upkeep/test"]
    core.create_namespaced_config_map(NAMESPACE, body)
    core.delete_namespaced_config_map("final", NAMESPACE)
    assert core.read_namespaced_config_map("final", NAMESPACE).metadata.deletion_timestamp
    core.patch_namespaced_config_map("final", NAMESPACE, [{"op": "remove", "path": "/metadata/finalizers"}])
    refused(404, "NotFound", core.read_namespaced_config_map, "final", NAMESPACE)


def test_a_namespace_takes_everything_with_it(core: client.CoreV1Api) -> None:
    core.create_namespace({"metadata": {"name": "scratch"}})
    core.create_namespaced_config_map("scratch", configmap("inside"))
    core.delete_namespace("scratch")
    deadline = time.monotonic() + 5
    while any(each.metadata.name == "scratch" for each in core.list_namespace().items):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    refused(404, "NotFound", core.read_namespaced_config_map, "inside", "scratch")


# -- watches -----------------------------------------------------------------------------------------------


def test_a_watch_tells_what_happens_to_what_it_selects(core: client.CoreV1Api) -> None:
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    core.create_namespaced_config_map(NAMESPACE, configmap("seen", {"watch": "yes"}))
    core.create_namespaced_config_map(NAMESPACE, configmap("unseen"))
    core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"a": "1"}})
    # It stays, but leaves the selection.
    core.patch_namespaced_config_map("seen", NAMESPACE, {"metadata": {"labels": {"watch": "no"}}})
    events = watch.Watch().stream(
        core.list_namespaced_config_map,
        NAMESPACE,
        label_selector="watch=yes",
        resource_version=version,
        timeout_seconds=1,
    )
    seen = [(event["type"], event["object"].metadata.name) for event in events]
    assert seen == [("ADDED", "seen"), ("MODIFIED", "seen"), ("DELETED", "seen")]


def test_a_watch_without_a_version_begins_with_what_is_there_and_goes_on(core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map(NAMESPACE, configmap("first"))
    timer = threading.Timer(0.3, core.create_namespaced_config_map, [NAMESPACE, configmap("second")])
    timer.start()
    names = []
    for event in watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, timeout_seconds=5):
        names.append(event["object"].metadata.name)
        if "second" in names:
            break
    assert names == ["first", "second"]
    timer.join()


def test_a_watch_from_too_far_back_ends_with_410(home: Home, core: client.CoreV1Api) -> None:
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    core.create_namespaced_config_map(NAMESPACE, configmap("newer"))
    api(home).send("POST", "/_sandbox/compact")
    stream = watch.Watch().stream(
        core.list_namespaced_config_map, NAMESPACE, resource_version=version, timeout_seconds=2
    )
    with pytest.raises(ApiException) as caught:
        list(stream)
    assert caught.value.status == 410


def test_bookmarks_tell_the_version_to_go_on_from(home: Home) -> None:
    query = "watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion="
    version = api(home).get(f"/api/v1/namespaces/{NAMESPACE}/configmaps")["metadata"]["resourceVersion"]
    lines = str(_raw(home, f"/api/v1/namespaces/{NAMESPACE}/configmaps?{query}{version}")).splitlines()
    assert '"BOOKMARK"' in lines[-1]


def _raw(home: Home, path: str) -> str:
    context = ssl.create_default_context(cafile=str(home.path / "certificates" / "ca.pem"))
    raw = http.client.HTTPSConnection("127.0.0.1", home.port(NAME), context=context, timeout=10)
    raw.request("GET", path, headers={"Authorization": f"Bearer {api(home).token}"})
    return raw.getresponse().read().decode()


# -- scripted trouble --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"), [(409, "Conflict"), (410, "Expired"), (429, "TooManyRequests"), (500, "InternalError")]
)
def test_the_next_requests_fail_as_scripted_and_then_no_more(
    home: Home, core: client.CoreV1Api, code: int, reason: str
) -> None:
    script = {"name": "next", "path": "/configmaps", "method": "POST", "answer": code, "times": 2}
    api(home).send("POST", "/_sandbox/faults", {**script, "retry_after_s": 1})
    core.list_namespaced_config_map(NAMESPACE)
    for _ in range(2):
        refused(code, reason, core.create_namespaced_config_map, NAMESPACE, configmap("tried"))
    core.create_namespaced_config_map(NAMESPACE, configmap("tried"))
    api(home).send("DELETE", "/_sandbox/faults")


def test_a_watch_can_be_cut_in_the_middle(home: Home) -> None:
    api(home).send("POST", "/_sandbox/faults", {"name": "cut", "path": "watch=1", "cut_after_s": 0.3})
    with pytest.raises((http.client.IncompleteRead, OSError)):
        _raw(home, f"/api/v1/namespaces/{NAMESPACE}/configmaps?watch=1&timeoutSeconds=5")
    api(home).send("DELETE", "/_sandbox/faults")


def test_objects_can_be_made_older(home: Home, core: client.CoreV1Api) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/debug-old"
    before = core.read_namespaced_pod("debug-old", NAMESPACE)
    age(home, path, 3600)
    after = core.read_namespaced_pod("debug-old", NAMESPACE)
    assert (before.metadata.creation_timestamp - after.metadata.creation_timestamp).total_seconds() == 3600
    ended, earlier = (pod.status.container_statuses[0].state.terminated.finished_at for pod in (before, after))
    assert (ended - earlier).total_seconds() == 3600
