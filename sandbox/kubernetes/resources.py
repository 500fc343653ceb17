"""The kinds this cluster knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """One kind of object, as discovery describes it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()

    generation: bool = False
    """Counts changes of its spec in ``metadata.generation``."""

    custom: bool = False
    """From a CustomResourceDefinition: strategic merge patches are refused."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As error messages name it: ``deployments.apps``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


RESOURCES: dict[tuple[str, str, str], Resource] = {}
"""By group, version and plural."""


def _add(
    group: str,
    version: str,
    plural: str,
    kind: str,
    *short: str,
    cluster: bool = False,
    sub: str = "",
    generation: bool = False,
    custom: bool = False,
) -> Resource:
    made = Resource(group, version, plural, kind, not cluster, short, tuple(sub.split()), generation, custom)
    RESOURCES[group, version, plural] = made
    return made


NAMESPACES = _add("", "v1", "namespaces", "Namespace", "ns", cluster=True, sub="status")
NODES = _add("", "v1", "nodes", "Node", "no", cluster=True, sub="status proxy")
PODS = _add("", "v1", "pods", "Pod", "po", sub="status log eviction")
SERVICES = _add("", "v1", "services", "Service", "svc", sub="status")
ENDPOINTS = _add("", "v1", "endpoints", "Endpoints", "ep")
CONFIGMAPS = _add("", "v1", "configmaps", "ConfigMap", "cm")
SECRETS = _add("", "v1", "secrets", "Secret")
EVENTS = _add("", "v1", "events", "Event", "ev")
CLAIMS = _add("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "pvc", sub="status")
VOLUMES = _add("", "v1", "persistentvolumes", "PersistentVolume", "pv", cluster=True, sub="status")
SERVICE_ACCOUNTS = _add("", "v1", "serviceaccounts", "ServiceAccount", "sa")
LIMIT_RANGES = _add("", "v1", "limitranges", "LimitRange", "limits")
QUOTAS = _add("", "v1", "resourcequotas", "ResourceQuota", "quota", sub="status")
DEPLOYMENTS = _add("apps", "v1", "deployments", "Deployment", "deploy", sub="status scale", generation=True)
REPLICA_SETS = _add("apps", "v1", "replicasets", "ReplicaSet", "rs", sub="status scale", generation=True)
STATEFUL_SETS = _add("apps", "v1", "statefulsets", "StatefulSet", "sts", sub="status scale", generation=True)
DAEMON_SETS = _add("apps", "v1", "daemonsets", "DaemonSet", "ds", sub="status", generation=True)
REVISIONS = _add("apps", "v1", "controllerrevisions", "ControllerRevision")
JOBS = _add("batch", "v1", "jobs", "Job", sub="status", generation=True)
CRON_JOBS = _add("batch", "v1", "cronjobs", "CronJob", "cj", sub="status", generation=True)
AUTOSCALERS = _add("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa", sub="status")
BUDGETS = _add("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "pdb", sub="status", generation=True)
SLICES = _add("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", generation=True)
INGRESSES = _add("networking.k8s.io", "v1", "ingresses", "Ingress", "ing", sub="status", generation=True)
NETWORK_POLICIES = _add("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "netpol", generation=True)
LEASES = _add("coordination.k8s.io", "v1", "leases", "Lease")
STORAGE_CLASSES = _add("storage.k8s.io", "v1", "storageclasses", "StorageClass", "sc", cluster=True)
PRIORITY_CLASSES = _add("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", "pc", cluster=True)
ROLES = _add("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = _add("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLES = _add("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", cluster=True)
CLUSTER_ROLE_BINDINGS = _add(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", cluster=True
)
VALIDATING_WEBHOOKS = _add(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    cluster=True,
    generation=True,
)
MUTATING_WEBHOOKS = _add(
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    cluster=True,
    generation=True,
)
CERTIFICATES = _add(
    "cert-manager.io", "v1", "certificates", "Certificate", "cert", "certs",
    sub="status", generation=True, custom=True,
)  # fmt: skip
CERTIFICATE_REQUESTS = _add(
    "cert-manager.io", "v1", "certificaterequests", "CertificateRequest", "cr", "crs",
    sub="status", generation=True, custom=True,
)  # fmt: skip
ISSUERS = _add("cert-manager.io", "v1", "issuers", "Issuer", sub="status", generation=True, custom=True)
CLUSTER_ISSUERS = _add(
    "cert-manager.io", "v1", "clusterissuers", "ClusterIssuer", cluster=True, sub="status", generation=True, custom=True
)

BY_KIND: dict[tuple[str, str], Resource] = {(made.api_version, made.kind): made for made in RESOURCES.values()}
"""By apiVersion and kind, as owner references and scale targets name them."""
